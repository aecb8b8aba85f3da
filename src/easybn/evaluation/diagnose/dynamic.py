"""Models that learn or differentiate while they predict."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

from .finding import Finding
from .kept import changed, kept
from .subject import Subject

IMAGES = 8
"""Images of the pass that is watched: what a forward pass does does not depend on how many there are."""


def dynamic(subject: Subject) -> list[Finding]:
    """A forward pass runs no backward pass and no optimiser, and changes no parameter and no buffer.

    AutoAttack traces Python calls named ``grad`` and ``backward``. Here autograd itself tells: whatever a backward
    pass reads was packed by the forward pass and is unpacked (``saved_tensors_hooks``).
    """
    model, seen = subject.ready.model, set[str]()
    with kept(model), _thawed(model), _watched(seen):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            subject.ready.original(subject.ready.load(subject.x[:IMAGES]))
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):  # torch.func refuses to be watched, which says it all
                raise
            seen.add("torch.func differentiates")
        if names := changed(model, before):
            seen.add(f"{len(names)} tensors of the state change, such as {names[0]}")
    if not seen:
        return [Finding("dynamic", "ok", "a forward pass neither differentiates nor learns", "")]
    return [
        Finding(
            "dynamic", "warning", "a forward pass does more than predict", ", ".join(sorted(seen)),
            "attacks take the gradient of one pass as it is, not of what the model will do to the image next time",
            "AutoAttack may overrate it: attack the whole procedure with an adaptive attack",
        )
    ]  # fmt: skip


@contextmanager
def _watched(seen: set[str]) -> Iterator[None]:
    """What happens inside the block is written into ``seen``."""

    def unpack(tensor: Tensor) -> Tensor:
        seen.add("autograd runs a backward pass")
        return tensor

    def step(*_: Any) -> None:
        seen.add("an optimiser takes a step")

    hook = register_optimizer_step_pre_hook(step)
    try:
        with saved_tensors_hooks(lambda tensor: tensor, unpack), torch.enable_grad():
            yield
    finally:
        hook.remove()


@contextmanager
def _thawed(model: nn.Module) -> Iterator[None]:
    """Parameters with gradients, which a prepared model has not: models that learn ask for them."""
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
