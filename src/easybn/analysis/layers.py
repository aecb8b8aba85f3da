"""The layers whose outputs are looked at: the blocks of a network, found by how it is built, or by name."""

import difflib
from collections.abc import Sequence

from torch import nn

from ..norm.branched import BranchedNorm

_SEQUENCES = (nn.Sequential, nn.ModuleList)


def default_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of ``model``, by module name: composite modules that stand in a sequence.

    Of our ResNets, timm's and torchvision's these are the residual blocks, of vision transformers the transformer
    blocks. A sequence's member that itself holds several such blocks is a stage or a whole network: its blocks are
    taken instead of it. Where there are fewer than two blocks, as in a plain stack of layers, every innermost layer
    with parameters is taken.
    """
    modules = dict(model.named_modules())
    members = [name for name, module in modules.items() if name and _is_member(modules, name) and _is_composite(module)]
    inner = {name: sum(other.startswith(f"{name}.") for other in members) for name in members}
    candidates = [name for name in members if inner[name] <= 1]
    blocks = [name for name in candidates if not any(name.startswith(f"{other}.") for other in candidates)]
    if len(blocks) < 2:
        blocks = [name for name, module in modules.items() if name and _is_leaf(module)]
    return {name: modules[name] for name in blocks}


def named_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of ``model`` of these names, such as ``network.stages.2``.

    Raises:
        ValueError: there is none of that name; the message has the nearest one.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    for name in names:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            blocks = ", ".join(list(default_layers(model))[:8])
            raise ValueError(f"the model has no layer {name!r}{hint}; its blocks are {blocks}")
    return {name: modules[name] for name in names}


def _is_member(modules: dict[str, nn.Module], name: str) -> bool:
    return isinstance(modules[name.rpartition(".")[0]], _SEQUENCES)


def _is_composite(module: nn.Module) -> bool:
    """Made of layers with parameters, but neither a mere sequence of them nor one norm of several branches."""
    if isinstance(module, (*_SEQUENCES, BranchedNorm)):
        return False
    return any(True for child in module.children() for _ in child.parameters())


def _is_leaf(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) and not _is_composite(module)
