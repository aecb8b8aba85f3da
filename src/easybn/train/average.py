"""The exponential moving average of a model's weights and statistics."""

from torch import Tensor, nn

from ..copying import copied


class Average:
    """Every floating point entry of the state dict averaged, the others copied (timm's ModelEmaV3).

    Args:
        model: to be averaged; its present state is where the average starts.
        decay: weight of the past at each update, such as 0.999.
    """

    def __init__(self, model: nn.Module, decay: float):
        from timm.utils.model_ema import ModelEmaV3  # imported where it is asked for: timm takes a second

        self._ema = ModelEmaV3(copied(model), decay=decay)  # it makes a copy of its own, by copy.deepcopy

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        return self._ema.module

    def update(self, model: nn.Module) -> None:
        self._ema.update(model)

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state)
