"""From the parts of a training to its state, and back."""

from dataclasses import dataclass
from pathlib import Path

import torch

from .average import Average
from .checkpoint import State
from .observer import Moment


@dataclass(frozen=True)
class Parts:
    """What changes from step to step.

    Args:
        moment: with the model, the step, the tally and the seconds.
        images: number of training images.
        optimizer, average, scaler: the last two if there are any.
    """

    moment: Moment
    images: int
    optimizer: torch.optim.Optimizer
    average: Average | None
    scaler: torch.amp.GradScaler | None

    @property
    def asked(self) -> dict[str, str]:
        """The settings that a checkpoint must share with the training that goes on from it."""
        training = {name: repr(value) for name, value in vars(self.moment.training).items()}
        recipe = repr(self.moment.recipe)
        recipe = type(self.moment.recipe).__name__ if " at 0x" in recipe else recipe  # an address says nothing
        return {"recipe": recipe, "images": str(self.images), **training}

    def state(self) -> State:
        """The state as it is now; its tensors are those in use, not copies."""
        return State(
            step=self.moment.step,
            model=self.moment.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            average=None if self.average is None else self.average.state_dict(),
            scaler=None if self.scaler is None else self.scaler.state_dict(),
            tally=self.moment.tally,
            seconds=self.moment.seconds,
            asked=self.asked,
        )

    def restore(self, state: State, path: Path) -> None:
        """Make ``state``, which was read from ``path``, the present one.

        Raises:
            ValueError: it is of another model, recipe or training.
        """
        if different := [f"{k}: {state.asked.get(k)} -> {v}" for k, v in self.asked.items() if state.asked.get(k) != v]:
            raise ValueError(f"{path} is a checkpoint of another training ({'; '.join(different)}): give another path")
        try:
            self.moment.model.load_state_dict(state.model)
            self.optimizer.load_state_dict(state.optimizer)
            if self.average is not None and state.average is not None:
                self.average.load_state_dict(state.average)
            if self.scaler is not None and state.scaler is not None:
                self.scaler.load_state_dict(state.scaler)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is a checkpoint of another model: give another path") from error
        device = next(self.moment.model.parameters()).device
        self.moment.tally = {name: row.to(device) for name, row in state.tally.items()}
        self.moment.step, self.moment.seconds = state.step, state.seconds
