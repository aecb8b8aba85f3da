"""A model made ready for attack, and given back as it was found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..modes import evaluating
from ..norm.branched import BranchedNorm

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``: work done and to do, in whole units of what is being done."""


def silent(done: int, total: int, what: str) -> None:
    """The progress callback of those who gave none."""


@dataclass(frozen=True)
class Prepared:
    """What an attack sees of a model: a function from images to logits, and where and how to call it.

    Args:
        model: the user's model itself, in eval mode and without weight gradients for as long as it is prepared.
        device: of its parameters; None if it has none.
        dtype: of its parameters; None if it has none.
        notes: what a reader of the result should know about how the model was found.
    """

    model: nn.Module
    device: torch.device | None
    dtype: torch.dtype | None
    notes: tuple[str, ...] = ()

    @property
    def image_dtype(self) -> torch.dtype:
        """The type that attacks work in: float64 for a float64 model, float32 for any other."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def load(self, x: Tensor) -> Tensor:
        """A batch as attacks work on it: on the model's device, in ``image_dtype``, channels last."""
        return _channels_last(x.detach().to(self.device or x.device, self.image_dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) logits of ``x`` (N, ...), which keeps its graph.

        Raises:
            TypeError: the model does not return a tensor.
            ValueError: the tensor is not (N, K) with at least two classes.
        """
        logits = self.model(_channels_last(x.to(self.dtype or x.dtype)))
        if not isinstance(logits, Tensor):
            raise TypeError(f"the model must return a tensor of logits, got {type(logits).__name__}: wrap the model")
        if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            shape = tuple(logits.shape)
            raise ValueError(f"logits must be ({len(x)}, classes) with at least two classes, got shape {shape}")
        return logits


@contextmanager
def prepared(model: nn.Module) -> Iterator[Prepared]:
    """``model`` in eval mode, its parameters without gradient, inside the block; exactly as it was after it.

    Works under ``torch.no_grad()`` and ``torch.inference_mode()`` too.
    """
    example = next((p for p in model.parameters() if p.is_floating_point()), None)
    notes = tuple(_notes(model))
    learning = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with evaluating(model), torch.inference_mode(False), torch.enable_grad():
            yield Prepared(
                model, None if example is None else example.device, None if example is None else example.dtype, notes
            )
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _notes(model: nn.Module) -> Iterator[str]:
    # a container is never called, so that its mode means nothing
    modules = [m for m in model.modules() if not isinstance(m, (nn.ModuleDict, nn.ModuleList))]
    if training := sum(module.training for module in modules):
        yield f"the model came in train mode ({training} of {len(modules)} modules): evaluated in eval mode"
    branched = [module for module in modules if isinstance(module, BranchedNorm)]
    if branched:
        active = ", ".join(sorted({repr(module.active) for module in branched}))
        yield f"the model has branches ({', '.join(branched[0].norms)}): evaluated through {active}"
    if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in modules):
        yield "a batch norm has no running statistics: predictions depend on the other images of the batch"
