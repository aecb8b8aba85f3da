"""Fold batch norms into the layers before them: in eval mode both are linear, so one layer can do the work of two.

(conv(x) - mean) / sqrt(var + eps) * gamma + beta is a convolution with other weights (Jacob et al., 2018, section
3.2). :func:`folded` makes a folded copy, for a model that will not change; :func:`folding` folds a model in training
for the length of a block.

Which norm normalises the output of which layer is seen in a forward pass, by hooks. Unlike tracing, this works with
any control flow. What hooks cannot see is that a layer's output is used elsewhere too: compare a folded model with the
original before relying on it.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..keyed_random import torch_generators
from ..modes import copied, is_sharded
from .branched import BranchedNorm

LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers that a norm is folded into: these classes, and those whose ``computes_as`` is one of them. Other subclasses
are left alone, since they may do anything with their weight."""

Pairs = list[tuple[Any, Any]]
"""(layer, norm that normalises its output), each layer and each norm at most once."""


class Folded(NamedTuple):
    """A copy of a model with batch norms folded.

    Args:
        model: the copy.
        folded: how many batch norms are now part of the layer before them.
        norms: how many batch norms the forward pass used.
    """

    model: nn.Module
    folded: int
    norms: int


def folded(model: nn.Module, probe: Tensor) -> Folded:
    """A copy of ``model`` in which batch norms directly after a convolution or linear layer are folded into it.

    Folded are ``nn.BatchNorm1d`` and ``nn.BatchNorm2d`` with running statistics (also as the active branch of
    a ``BranchedNorm``) and timm's ``BatchNormAct2d``, whose activation stays. Left as they are: layers and
    norms that run more than once, that carry hooks or a forward of their own, whose weight is parametrised or
    shared, and all subclasses. The weights are computed in float64 and stored in the layer's own type.

    Args:
        model: in eval mode; it is not changed.
        probe: images as the model takes them, (n, ...), on its device and in its type.

    Raises:
        ValueError: the model is in train mode.
        Exception: whatever a model raises that cannot be copied, or that does not take ``probe``.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        raise ValueError("a batch norm in train mode normalises by the batch: model.eval() before folding")
    with torch.inference_mode(False), torch.no_grad():
        new = copied(model)
        watched = _WatchedPass(new, probe.clone())
        for layer, norm in watched.pairs:
            dtype, learns = layer.weight.dtype, layer.weight.requires_grad
            layer.weight, layer.bias = (nn.Parameter(p.to(dtype), learns) for p in _fused(layer, norm, torch.float64))
    replacements = {id(norm): _remainder(norm) for _, norm in watched.pairs}
    for module in list(new.modules()):
        for name, child in module._modules.items():
            if id(child) in replacements:
                module._modules[name] = replacements[id(child)]
    return Folded(new, len(watched.pairs), watched.norms_used)


@contextmanager
def folding(model: nn.Module) -> Iterator[None]:
    """Inside the block, ``model`` in eval mode computes with its batch norms folded into the layers before them.

    Afterwards parameters, statistics, modes and hooks are as before, also after an exception. The pairs of layer and
    norm are found in the first pass through each branch, and checked with other statistics; if the output differs,
    nothing is folded. Nothing is folded either on devices other than the CPU, in compiled models, in models whose
    parameters are split over processes, or where a batch norm is in train mode.

    The folded weights are computed anew at every entry, since the model trains in between: a product per weight, which
    is little beside a forward pass of a batch.

    Args:
        model: called with images (N, ...) as its only argument.
    """
    with ExitStack() as stack:
        modules = list(model.modules())
        if _worthwhile(model, modules):
            key = *map(id, modules), *(m.active for m in modules if isinstance(m, BranchedNorm))
            known = _known_pairs.setdefault(model, {})
            if key in known:
                stack.enter_context(_in_place(known[key]))
            else:
                stack.callback(_fold_at_first_call(model, known, key, stack))
        yield


# for each model and each combination of active branches; the modules are kept, so that their ids stay theirs
_known_pairs: WeakKeyDictionary[nn.Module, dict[Any, Pairs]] = WeakKeyDictionary()


def _worthwhile(model: nn.Module, modules: list[nn.Module]) -> bool:
    if hasattr(model, "_orig_mod") or any(m._compiled_call_impl is not None for m in modules):
        return False  # the compiler folds by itself, and would have to compile again
    parameter = next(model.parameters(), None)
    return parameter is not None and parameter.device.type == "cpu" and not is_sharded(model)


def _fold_at_first_call(model: nn.Module, known: dict[Any, Pairs], key: Any, stack: ExitStack) -> Callable[[], None]:
    """Find the pairs when ``model`` is next called, and fold them for that call already; returns how to cancel."""

    def find(module: nn.Module, args: Any) -> None:
        handle.remove()
        # a resumed training looks again: the random numbers that it draws must not depend on that
        with torch_generators(), torch.no_grad():
            try:
                known[key] = _checked_pairs(model, args[0].detach()[:2])
            except Exception:  # whatever it is, the model works without folding
                known[key] = []
        stack.enter_context(_in_place(known[key]))

    handle = model.register_forward_pre_hook(find)
    return handle.remove


def _checked_pairs(model: nn.Module, probe: Tensor) -> Pairs:
    """The pairs of ``model``; none if folding them changes its output."""
    if any(m.training for m in model.modules() if isinstance(m, _BatchNorm)):
        return []
    pairs = _WatchedPass(model, probe).pairs
    with ExitStack() as stack:
        for _, norm in pairs:
            stack.enter_context(_other_statistics(norm))
        expected = model(probe.clone())
        with _in_place(pairs):
            output = model(probe.clone())
    return pairs if torch.allclose(output, expected, rtol=0, atol=1e-3 * float(expected.abs().max())) else []


@contextmanager
def _other_statistics(norm: Any) -> Iterator[None]:
    """Initial statistics (mean 0, variance 1) change next to nothing, so that a mistake would not show."""
    before = norm.running_mean, norm.running_var
    n = len(norm.running_mean)
    norm.running_mean = torch.linspace(-0.5, 0.5, n).to(before[0])
    norm.running_var = torch.linspace(0.5, 2.0, n).to(before[1])
    try:
        yield
    finally:
        norm.running_mean, norm.running_var = before


@contextmanager
def _in_place(pairs: Pairs) -> Iterator[None]:
    """Put the folded weights in the place of the layers' own, and skip the norms, for the length of a block."""
    before = [(layer, layer._parameters["weight"], layer._parameters["bias"]) for layer, _ in pairs]
    try:
        for layer, norm in pairs:
            with torch.no_grad():
                layer._parameters["weight"], layer._parameters["bias"] = _fused(layer, norm, layer.weight.dtype)
            norm.forward = _remainder(norm).forward
        yield
    finally:
        for layer, weight, bias in before:
            layer._parameters["weight"], layer._parameters["bias"] = weight, bias
        for _, norm in pairs:
            norm.__dict__.pop("forward", None)


def _fused(layer: Any, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of one layer that computes ``norm(layer(x))`` in eval mode, without a graph."""

    def cast(t: Any) -> Any:
        return None if t is None else t.detach().to(dtype)

    weight, bias = fuse_conv_bn_weights(  # it serves linear layers too
        cast(layer.weight), cast(layer.bias), cast(norm.running_mean), cast(norm.running_var),
        norm.eps, cast(norm.weight), cast(norm.bias),
    )  # fmt: skip
    return weight.detach(), bias.detach()


def _remainder(norm: Any) -> nn.Module:
    """What is left of a norm when its normalisation is folded away: timm's have an activation."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


class _WatchedPass:
    """A forward pass of ``x`` watched by hooks: which norm got exactly what which layer returned.

    Attributes:
        pairs: the layers and norms that can be folded.
        norms_used: how many batch norms the pass went through.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self._calls: Counter[nn.Module] = Counter()
        # the outputs are kept, so that no other tensor can get the id of one of them
        self._outputs: dict[int, tuple[nn.Module, Tensor, int]] = {}
        self._followed: Pairs = []
        owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
        shared = {key for key, count in owners.items() if count > 1}
        plain = [module for module in model.modules() if _is_plain(module)]
        layers = [
            m for m in plain if _class(m) in LAYERS and not any(id(p) in shared for p in m.parameters(recurse=False))
        ]
        batch_norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        handles = [m.register_forward_pre_hook(self._count) for m in {*layers, *batch_norms}]
        handles += [m.register_forward_hook(self._after_layer) for m in layers]
        handles += [m.register_forward_pre_hook(self._before_norm) for m in plain if _is_foldable(m)]
        try:
            model(x.clone())  # a copy, for models that write into their input
        finally:
            for handle in handles:
                handle.remove()
        calls, uses = self._calls, Counter(layer for layer, _ in self._followed)
        self.norms_used = sum(calls[module] > 0 for module in batch_norms)
        self.pairs: Pairs = [
            (layer, norm) for layer, norm in self._followed if calls[layer] == calls[norm] == uses[layer] == 1
        ]

    def _count(self, module: nn.Module, args: Any) -> None:
        self._calls[module] += 1

    def _after_layer(self, layer: Any, args: Any, output: Tensor) -> None:
        # a batch (n, channels, ...), so that layer and norm mean the same axis by "channels"
        if output.dim() == layer.weight.dim():
            self._outputs[id(output)] = layer, output, output._version

    def _before_norm(self, norm: nn.Module, args: Any) -> None:
        layer, output, version = self._outputs.get(id(args[0]) if args else 0, (None, None, 0))
        # another version: the tensor was changed in place in between, by an activation or a sum
        if layer is not None and output is not None and output._version == version:
            self._followed.append((layer, norm))


def _is_plain(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module)


def _is_foldable(norm: Any) -> bool:
    timm = sys.modules.get("timm.layers")  # a model of timm's has imported it
    classes = (nn.BatchNorm1d, nn.BatchNorm2d, *([timm.BatchNormAct2d] if timm else []))
    return type(norm) in classes and norm.running_mean is not None and norm.running_var is not None


def _class(layer: nn.Module) -> type[nn.Module]:
    computes_as: type[nn.Module] = vars(type(layer)).get("computes_as", type(layer))
    return computes_as
