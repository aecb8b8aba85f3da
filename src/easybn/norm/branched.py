"""The auxiliary batch norm: one norm layer per kind of example, one of them active at a time."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..modes import copied


class BranchedNorm(nn.Module):
    """A norm layer with one copy per branch (AdvProp, Xie et al. 2020, section 3.2).

    The given layer becomes the first branch, unchanged; the others start as deep copies of it, with its
    affine parameters, running statistics, mode, hooks and any activation it carries.
    :func:`easybn.route` chooses the branch; outside of it the first one is used.

    Args:
        norm: the layer to copy, of any kind.
        branches: names of the branches, the default one first.
        copies: the other branches' layers, by default deep copies (:func:`easybn.convert` passes copies in which
            shared parameters stay shared).
    """

    def __init__(self, norm: nn.Module, branches: Sequence[str], copies: Sequence[nn.Module] | None = None):
        super().__init__()
        if copies is None:
            copies = [copied(norm) for _ in branches[1:]]
        self.norms: nn.ModuleDict = nn.ModuleDict(dict(zip(branches, [norm, *copies], strict=True)))
        self.default: str = branches[0]
        self.active: str = branches[0]
        self.training: bool = norm.training
        self.norms.training = norm.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.norms[self.active](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # models read attributes of their norms (weight, eps, num_features): give those of the active branch
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if "norms" not in modules or "active" not in self.__dict__:
                raise
            return getattr(modules["norms"][self.__dict__["active"]], name)

    def extra_repr(self) -> str:
        return f"active={self.active!r}"
