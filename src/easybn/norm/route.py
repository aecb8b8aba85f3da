"""Choose which branch the norm layers of a converted model use."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .branched import BranchedNorm


@contextmanager
def route(model: nn.Module, branch: str) -> Iterator[None]:
    """Inside the block, ``model`` uses ``branch``; afterwards the branch it used before.

    Nestable; restored also after an exception. The choice is stored in the model, so two threads need two models.
    With activation checkpointing, call ``backward()`` inside the block too, since the forward pass is computed again
    there.

    Args:
        model: a converted model, or a wrapper around one (data parallel, ``torch.compile``).
        branch: one of the names given to :func:`easybn.convert`.

    Raises:
        ValueError: the model has no branches, or none of that name.
    """
    norms = [module for module in model.modules() if isinstance(module, BranchedNorm)]
    if not norms:
        raise ValueError(f"{type(model).__name__} has no branches to route through: convert() it first")
    if any(branch not in norm.norms for norm in norms):
        raise ValueError(f"no branch {branch!r} in the model; it has {', '.join(map(repr, norms[0].norms))}")
    active = [norm.active for norm in norms]
    for norm in norms:
        norm.active = branch
    try:
        yield
    finally:
        for norm, before in zip(norms, active, strict=True):
            norm.active = before
