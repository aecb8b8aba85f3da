"""Convert a plain model to one with a norm layer per branch, and strip it back."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from ..modes import copied
from .branched import BranchedNorm

M = TypeVar("M", bound=nn.Module)

KINDS: dict[str, type[nn.Module]] = {"batch": _BatchNorm, "layer": nn.LayerNorm, "group": nn.GroupNorm}
"""The names that ``convert(kinds=...)`` understands; each stands for the class and all its subclasses."""


def convert(
    model: M,
    branches: Sequence[str] = ("main", "easy"),
    kinds: str | type[nn.Module] | Sequence[str | type[nn.Module]] = "batch",
    *,
    share: Literal["affine"] | None = None,
    inplace: bool = False,
) -> M:
    """A copy of ``model`` in which every norm layer of the given kinds has one copy per branch.

    The layers are wrapped, never rebuilt, so that subclasses (SyncBatchNorm, timm's BatchNormAct2d)
    keep their behaviour; every branch starts from the layer's affine parameters and statistics. A layer
    that several parents share stays shared. ``strip(convert(model))`` equals ``model`` bit for bit.

    Args:
        model: any module; it is not changed. (A model that is itself a norm layer gives a BranchedNorm.) Tensors that
            it keeps in attributes, such as activations, are copied without their graph; locks and generators are
            shared.
        branches: names of the branches, at least one; the first is the default, used outside ``route``.
        kinds: "batch" (1d, 2d, 3d, synchronised and subclasses), "layer", "group", a class, or several.
        share: what a layer's branches have in common: "affine", its weight and bias, so that only the running
            statistics are apart (arXiv 2403.19150 has every combination); by default nothing.
        inplace: change ``model`` itself, for a model that cannot be copied.

    Raises:
        ValueError: no layer of these kinds, a model that is converted already, branch names that repeat or
            are no identifiers, a lazy layer that has not seen a batch yet, a layer without running statistics whose
            affine parameters are to be shared.
    """
    _check_names(branches)
    if share not in (None, "affine"):
        raise ValueError(f'share must be "affine" or None, got {share!r}')
    if any(isinstance(module, BranchedNorm) for module in model.modules()):
        raise ValueError("the model has branches already: convert the plain model, or strip() this one first")
    if any(isinstance(module, LazyModuleMixin) and module.has_uninitialized_params() for module in model.modules()):
        raise ValueError("a lazy layer has no parameters to copy yet: run one batch through the model first")
    wanted = _classes(kinds)
    # one memo per branch, so that parameters that two norm layers share are shared within each branch too
    memos: list[dict[int, Any]] = [{} for _ in branches[1:]]

    def branch(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, wanted):
            return None
        if share == "affine":
            if not isinstance(getattr(module, "running_mean", None), Tensor):
                kind = type(module).__name__
                raise ValueError(f'share="affine": a {kind} here has no running statistics to tell its branches apart')
            for memo in memos:  # what is in there is not copied
                memo.update({id(parameter): parameter for parameter in module.parameters(recurse=False)})
        return BranchedNorm(module, branches, [copied(module, memo) for memo in memos])

    converted, count = _replaced(model if inplace else copied(model), branch)
    if not count:
        names = ", ".join(cls.__name__.lstrip("_") for cls in wanted)
        raise ValueError(f"no norm layer of the given kinds ({names}) in {type(model).__name__}; see kinds=")
    return converted


def strip(model: M, branch: str | None = None, *, inplace: bool = False) -> M:
    """A plain copy of a converted model with one branch: the model to deploy and evaluate.

    Args:
        model: a converted model; it is not changed.
        branch: the branch to keep; by default the first, ``"main"`` unless named otherwise.
        inplace: remove the other branches from ``model`` itself.

    Raises:
        ValueError: the model has no branches, or none of that name.
    """
    names = branches_of(model)
    if branch is not None and branch not in names:
        raise ValueError(f"no branch {branch!r} in the model; it has {', '.join(map(repr, names))}")

    def keep(module: nn.Module) -> nn.Module | None:
        return module.norms[branch or module.default] if isinstance(module, BranchedNorm) else None

    return _replaced(model if inplace else copied(model), keep)[0]


def branches_of(model: nn.Module) -> tuple[str, ...]:
    """The names of a converted model's branches, the default first; ValueError for a plain model."""
    for module in model.modules():
        if isinstance(module, BranchedNorm):
            return tuple(module.norms)
    raise ValueError(f"{type(model).__name__} has no branches: convert() it first")


def branch_parameters(model: nn.Module, branch: str) -> Iterator[nn.Parameter]:
    """The parameters that only ``branch`` uses, for an optimiser group or for counting.

    None of a model that was converted with ``share="affine"``.

    Raises:
        ValueError: the model has no branches, or none of that name.
    """
    if branch not in branches_of(model):
        raise ValueError(f"no branch {branch!r} in the model; it has {', '.join(map(repr, branches_of(model)))}")
    norms = [m.norms for m in model.modules() if isinstance(m, BranchedNorm)]
    others = {id(p) for layer in norms for name in layer if name != branch for p in layer[name].parameters()}
    own = nn.ModuleList(layer[branch] for layer in norms)
    yield from (parameter for parameter in own.parameters() if id(parameter) not in others)


def _replaced(model: Any, replacement: Callable[[nn.Module], nn.Module | None]) -> tuple[Any, int]:
    """``model`` with each child replaced by ``replacement(child)`` where that is not None, and how many were."""
    done: dict[int, nn.Module] = {}

    def new(child: nn.Module) -> nn.Module | None:
        if id(child) not in done and (made := replacement(child)) is not None:
            done[id(child)] = made
        return done.get(id(child))

    def visit(module: nn.Module, seen: set[int]) -> None:
        seen.add(id(module))
        for name, child in list(module._modules.items()):
            if child is None:
                continue
            if (made := new(child)) is not None:
                setattr(module, name, made)
            elif id(child) not in seen:
                visit(child, seen)

    root = new(model)
    if root is None:
        visit(model, set())
    return (model if root is None else root), len(done)


def _classes(kinds: str | type[nn.Module] | Sequence[str | type[nn.Module]]) -> tuple[type[nn.Module], ...]:
    asked = [kinds] if isinstance(kinds, (str, type)) else list(kinds)
    if unknown := [kind for kind in asked if isinstance(kind, str) and kind not in KINDS]:
        raise ValueError(f"unknown kind of norm layer {unknown[0]!r}; known: {', '.join(KINDS)}, or a class")
    return tuple(KINDS[kind] if isinstance(kind, str) else kind for kind in asked)


def _check_names(branches: Sequence[str]) -> None:
    if isinstance(branches, str) or not branches:
        raise ValueError(f"branches must be a sequence of one or more names, got {branches!r}")
    if len(set(branches)) < len(branches):
        raise ValueError(f"branch names must differ, got {tuple(branches)!r}")
    for name in branches:
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise ValueError(f"a branch name must be an identifier and no method of ModuleDict, got {name!r}")
