"""Batch norm folded for the length of a block: how a perturbation passes through a model that is in training.

:func:`~easybn.norm.fold.folded` makes a copy, for a model that will not change. Between two steps of training it
does, so that here the layers' weights are put in place of the originals at every entry: a product for each weight,
which is little beside a forward pass of a batch.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..keyed_random import torch_generators
from .branched import BranchedNorm
from .fold import fused, remainder
from .pairs import pairs

Found = list[tuple[Any, Any]]

# for each model and each way through it, the pairs to fold; the modules are kept, so that ids stay theirs
_known: WeakKeyDictionary[nn.Module, dict[Any, Found]] = WeakKeyDictionary()


@contextmanager
def folding(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode with its batch norms part of the layers before them, inside the block.

    Parameters, statistics, modes and hooks are found again afterwards, also after an exception. Where a batch norm
    follows which layer is looked for in the first pass through each branch, and tried out with other statistics;
    if the outcome is not the same, nothing is folded. Nothing is folded either on other devices than the CPU, of
    compiled models, or where a batch norm is in train mode.

    Args:
        model: called with images (N, ...) as its only argument.
    """
    with ExitStack() as stack:
        modules = list(model.modules())
        if _worthwhile(model, modules):
            key = *map(id, modules), *(m.active for m in modules if isinstance(m, BranchedNorm))
            known = _known.setdefault(model, {})
            if key in known:
                stack.enter_context(_folded(known[key]))
            else:
                stack.callback(_at_first_call(model, known, key, stack))
        yield


def _worthwhile(model: nn.Module, modules: list[nn.Module]) -> bool:
    if hasattr(model, "_orig_mod") or any(m._compiled_call_impl is not None for m in modules):
        return False  # a compiler folds by itself, and would compile again
    parameter = next(model.parameters(), None)
    return parameter is not None and parameter.device.type == "cpu"


def _at_first_call(model: nn.Module, known: dict[Any, Found], key: Any, stack: ExitStack) -> Callable[[], None]:
    """Wait for images; what is found with them serves their own pass already. Returns how to stop waiting."""

    def look(module: nn.Module, args: Any) -> None:
        handle.remove()
        # as often as it is needed, and not a random number more: a resumed training looks again
        with torch_generators(), torch.no_grad():
            try:
                known[key] = _checked(model, args[0].detach()[:2])
            except Exception:  # of any kind: the model as it is serves as well
                known[key] = []
        stack.enter_context(_folded(known[key]))

    handle = model.register_forward_pre_hook(look)
    return handle.remove


def _checked(model: nn.Module, probe: Tensor) -> Found:
    if any(m.training for m in model.modules() if isinstance(m, _BatchNorm)):
        return []
    found = pairs(model, probe).pairs
    with ExitStack() as stack:
        for _, norm in found:  # fresh statistics do next to nothing: a mistake would not show
            stack.enter_context(_lively(norm))
        expected = model(probe.clone())
        with _folded(found):
            got = model(probe.clone())
    return found if torch.allclose(got, expected, rtol=0, atol=1e-3 * float(expected.abs().max())) else []


@contextmanager
def _lively(norm: Any) -> Iterator[None]:
    before = norm.running_mean, norm.running_var
    n = len(norm.running_mean)
    norm.running_mean = torch.linspace(-0.5, 0.5, n).to(before[0])
    norm.running_var = torch.linspace(0.5, 2.0, n).to(before[1])
    try:
        yield
    finally:
        norm.running_mean, norm.running_var = before


@contextmanager
def _folded(found: Found) -> Iterator[None]:
    before = [(layer, layer._parameters["weight"], layer._parameters["bias"]) for layer, _ in found]
    try:
        for layer, norm in found:
            with torch.no_grad():
                layer._parameters["weight"], layer._parameters["bias"] = fused(layer, norm, layer.weight.dtype)
            norm.forward = remainder(norm).forward
        yield
    finally:
        for layer, weight, bias in before:
            layer._parameters["weight"], layer._parameters["bias"] = weight, bias
        for _, norm in found:
            norm.__dict__.pop("forward", None)
