"""A model made ready for attack, and given back as it was found.

Attacks take their steps from a fast copy, if there are images to check it on; verdicts are the model's own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..modes import evaluating, full_float32
from ..norm.branched import BranchedNorm
from .calling import Calling, likely_type, tried
from .surrogate import Options, fast_copy, kept_graphs

PROBES = 16
"""Images of a probe batch that are used, at most."""

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``: work done and to do, in whole units of what is being done."""


def silent(done: int, total: int, what: str) -> None:
    """The progress callback of those who gave none."""


@dataclass(frozen=True)
class Prepared:
    """What an attack sees of a model: a function from images to logits, and where and how to call it.

    Calling it is for the steps of an attack; verdicts and reported logits are those of :meth:`original`.

    Args:
        model: the user's model itself, in eval mode and without weight gradients for as long as it is prepared.
        calling: how it takes images, as found on the probe.
        notes: what a reader of the result should know about how the model was found, and what was given up.
        fast: a copy that stands for the model where gradients are taken; None if the model itself does.
        preparation: what was done to the copy.
    """

    model: nn.Module
    calling: Calling
    notes: tuple[str, ...] = ()
    fast: Callable[[Tensor], Tensor] | None = None
    preparation: str = "as found"

    @property
    def device(self) -> torch.device | None:
        """Of its parameters; None if it has none."""
        return self.calling.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the images that it takes; None if any will do."""
        return self.calling.dtype

    @property
    def image_dtype(self) -> torch.dtype:
        """The type that attacks work in: float64 for a float64 model, float32 for any other."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def load(self, x: Tensor) -> Tensor:
        """A batch as attacks work on it: on the model's device, in ``image_dtype``, channels last if it takes that."""
        return self.calling.laid_out(x.detach().to(self.device or x.device, self.image_dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) logits of ``x`` (N, ...), which keeps its graph, by the fast copy if there is one.

        Neither ``x`` nor the caller's images change, whatever the model does with its input.

        Raises:
            BadLogits: the model does not return a tensor (N, K) with at least two classes (TypeError and ValueError).
            ModelFailed: its forward pass raised an error (RuntimeError and ValueError).
        """
        return self.calling(self.fast or self.model, x)

    def original(self, x: Tensor) -> Tensor:
        """(N, K) logits of ``x`` (N, ...) by the user's own model in its own precision; raises as a call does."""
        return self.calling(self.model, x)


@contextmanager
def prepared(
    model: nn.Module, *, probe: Tensor | None = None, fold: bool = True, compile: bool = False, precision: str = "32"
) -> Iterator[Prepared]:
    """``model`` in eval mode, its parameters without gradient, inside the block; exactly as it was after it.

    Float32 is float32 there, not TF32. Works under ``torch.no_grad()`` and ``torch.inference_mode()`` too.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K).
        probe: images in [0, 1], (n, ...), n >= 1, like those to be attacked; the first 16 are used. On them it is
            found out how the model takes images: their type and layout in memory, and whether there is a gradient.
            Then a fast copy of the model is made, and compared with the model in logits and input gradients;
            whatever makes the copy fail or differ is given up, and noted. Without a probe there is no copy.
        fold: batch norms of the copy into the layers before them. Without ``compile`` or bf16, False is no copy.
        compile: the copy, by ``torch.compile``.
        precision: of the copy where gradients are taken, "32" for the model's own or "bf16".

    Raises:
        ValueError: an unknown precision, an empty probe, options that need a probe without one; a model that fails
            on the probe or returns no logits.
    """
    options = Options(fold, compile, precision)
    if probe is None and (compile or precision != "32"):
        raise ValueError("compile and bf16 are checked on images before they are used: pass probe=")
    if probe is not None and not len(probe):
        raise ValueError("the probe must hold one image or more, got none")
    notes = tuple(_notes(model))
    learning = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with ExitStack() as stack:
            for block in (evaluating(model), full_float32(), torch.inference_mode(False), torch.enable_grad()):
                stack.enter_context(block)
            stack.enter_context(kept_graphs(compile))
            if probe is None:
                device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
                yield Prepared(model, Calling(device, likely_type(model)), notes)
            else:
                yield _tried(model, notes, probe[:PROBES], options)
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _tried(model: nn.Module, notes: tuple[str, ...], probe: Tensor, options: Options) -> Prepared:
    probe = probe.clone()  # a caller's inference tensor can have no gradient
    calling, found = tried(model, probe)
    plain = Prepared(model, calling, (*notes, *found))
    if not options.any:
        return plain
    x = plain.load(probe)
    fast, given_up = fast_copy(model, x.to(plain.dtype or x.dtype), options, calling)
    every = (*plain.notes, *given_up)
    if fast is None:
        return Prepared(model, calling, every)
    return Prepared(model, calling, every, fast.call, fast.preparation)


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
