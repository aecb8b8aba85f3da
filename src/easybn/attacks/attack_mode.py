"""Attack mode: a model in eval mode and without weight gradients for the length of a block, then as it was before.

Attacks take their gradients from a surrogate, if there are images to check it on; verdicts are the model's own.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.outputs import SelectOutput
from ..modes import evaluating, full_float32, repeatable_convolutions
from ..norm.branched import BranchedNorm
from .model_call import ModelCall, likely_type, probe_call
from .surrogate import SurrogateOptions, make_surrogate, reusable_graphs

PROBES = 16
"""Images of a probe batch that are used, at most."""


@dataclass(frozen=True)
class TargetModel:
    """The model under attack: a function from images to logits, and where and how to call it.

    Call it for the steps of an attack; verdicts and reported logits are those of :meth:`original`.

    Args:
        model: the user's model itself, in eval mode and without weight gradients as long as the block lasts.
        call: how it takes images, as found on the probe.
        notes: what a reader of the result should know about the model as it was given, and what was given up.
        surrogate: a faster copy to take gradients from; None if the model itself serves.
        preparation: what was done to the surrogate.
    """

    model: nn.Module
    call: ModelCall
    notes: tuple[str, ...] = ()
    surrogate: Callable[[Tensor], Tensor] | None = None
    preparation: str = "as found"

    @property
    def device(self) -> torch.device | None:
        """Of its parameters; None if it has none."""
        return self.call.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the images that it takes; None if any will do."""
        return self.call.dtype

    @property
    def randomised(self) -> bool:
        """Whether it draws random numbers: two passes over the probe differ."""
        return self.call.randomised

    @property
    def image_dtype(self) -> torch.dtype:
        """The type that attacks work in: float64 for a float64 model, float32 for any other."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def load(self, x: Tensor) -> Tensor:
        """A batch as attacks work on it: on the model's device, in ``image_dtype``, channels last if it takes that."""
        return self.call.laid_out(x.detach().to(self.device or x.device, self.image_dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K) logits of ``x`` (N, ...), which keeps its graph, by the surrogate if there is one.

        Neither ``x`` nor the caller's images change, whatever the model does with its input.

        Raises:
            BadLogits: the model does not return a tensor (N, K) with at least two classes (TypeError and ValueError).
            ModelFailed: its forward pass raised an error (RuntimeError and ValueError).
        """
        return self.call(self.surrogate or self.model, x)

    def original(self, x: Tensor) -> Tensor:
        """(N, K) logits of ``x`` (N, ...) by the user's own model in its own precision; raises as a call does."""
        return self.call(self.model, x)


@contextmanager
def attack_mode(
    model: nn.Module, *, probe: Tensor | None = None, fold: bool = True, compile: bool = False, precision: str = "32"
) -> Iterator[TargetModel]:
    """``model`` in eval mode, its parameters without gradient, inside the block; exactly as it was after it.

    On a GPU float32 is float32 there, not TF32, and convolutions repeat bit for bit. Works under
    ``torch.no_grad()`` and ``torch.inference_mode()`` too.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K).
        probe: images in [0, 1], (n, ...), n >= 1, like those to be attacked; the first 16 are used. On them it is
            found out how the model takes images: their type and layout in memory, and whether there is a gradient.
            Then a surrogate is made, and compared with the model in logits and input gradients; whatever makes it
            fail or differ is given up, and noted. Without a probe there is no surrogate.
        fold: batch norms of the surrogate into the layers before them. Without ``compile`` or bf16, False means no
            surrogate.
        compile: the surrogate, by ``torch.compile``.
        precision: of the surrogate where gradients are taken, "32" for the model's own or "bf16".

    Raises:
        ValueError: an unknown precision, an empty probe, options that need a probe without one; a model that fails
            on the probe or returns no logits.
    """
    options = SurrogateOptions(fold, compile, precision)
    if probe is None and (compile or precision != "32"):
        raise ValueError("compile and bf16 are checked on images before they are used: pass probe=")
    if probe is not None and not len(probe):
        raise ValueError("the probe must hold one image or more, got none")
    notes = tuple(_notes_on(model))
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with ExitStack() as stack:
            for block in (
                evaluating(model),
                torch.inference_mode(False),
                torch.enable_grad(),
                reusable_graphs(compile),
            ):
                stack.enter_context(block)
            for block in (full_float32(), repeatable_convolutions()):
                stack.enter_context(block)
            if probe is None:
                device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
                yield TargetModel(model, ModelCall(device, likely_type(model)), notes)
            else:
                yield _probed(model, notes, probe[:PROBES], options)
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _probed(model: nn.Module, notes: tuple[str, ...], probe: Tensor, options: SurrogateOptions) -> TargetModel:
    probe = probe.clone()  # a caller's inference tensor can have no gradient
    call, found = probe_call(model, probe)
    preparation = "as found, verdicts by many passes" if call.randomised else "as found"
    plain = TargetModel(model, call, (*notes, *found), preparation=preparation)
    if not options.any:
        return plain
    x = plain.load(probe)
    surrogate, given_up = make_surrogate(model, x.to(plain.dtype or x.dtype), options, call)
    all_notes = (*plain.notes, *given_up)
    if surrogate is None:
        return replace(plain, notes=all_notes)
    return TargetModel(model, call, all_notes, surrogate.call, surrogate.preparation)


def _notes_on(model: nn.Module) -> Iterator[str]:
    # a container is never called and a selection does the same in both modes, so that theirs mean nothing
    modules = [m for m in model.modules() if not isinstance(m, (nn.ModuleDict, nn.ModuleList, SelectOutput))]
    if training := sum(module.training for module in modules):
        yield f"the model came in train mode ({training} of {len(modules)} modules): evaluated in eval mode"
    branched = [module for module in modules if isinstance(module, BranchedNorm)]
    if branched:
        active = ", ".join(sorted({repr(module.active) for module in branched}))
        yield f"the model has branches ({', '.join(branched[0].norms)}): evaluated through {active}"
    if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in modules):
        yield "a batch norm has no running statistics: predictions depend on the other images of the batch"
