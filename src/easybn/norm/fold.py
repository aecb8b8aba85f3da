"""Batch norm folded into the layer before it: in eval mode both are linear, so that one layer does the work of two.

(conv(x) - mean) / sqrt(var + eps) * gamma + beta is a convolution with other weights (Jacob et al., 2018,
section 3.2). What :mod:`~easybn.norm.fold` cannot see is that a layer's output is used somewhere else too: a
folded model has to be compared with the original before it is relied on.
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

from ..copying import copied
from ..keyed_random import torch_generators
from .branched import BranchedNorm

# Which batch norm normalises just what which layer returned: the pairs that can be folded into one.
#
# Seen in a forward pass, by hooks, and not by tracing: that works with any control flow, on tensors alone. What
# hooks cannot see is that a layer's output is used somewhere else too, so that a folded model has to be compared
# with the original before it is relied on.

LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers a norm is folded into: these classes, and those that say ``computes_as`` of one of them. Other subclasses
are left alone, since they may do anything with their weight."""


class Pairs(NamedTuple):
    """What a forward pass has shown.

    Args:
        pairs: (layer, norm), each layer and each norm at most once.
        norms: how many batch norms the pass went through.
    """

    pairs: list[tuple[Any, Any]]
    norms: int


def pairs(model: nn.Module, probe: Tensor) -> Pairs:
    """The pairs of ``model`` in a forward pass of ``probe``; modes, gradients and randomness are for the caller."""
    seen = _Pass(model)
    seen.run(probe)
    return Pairs(seen.pairs(), seen.norms)


class _Pass:
    """A forward pass, seen from the layers and norms that could be folded."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: Counter[nn.Module] = Counter()
        # the outputs are kept, so that no other tensor can get the id of one of them
        self.made: dict[int, tuple[nn.Module, Tensor, int]] = {}
        self.met: list[tuple[nn.Module, nn.Module]] = []
        owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
        shared = {key for key, count in owners.items() if count > 1}
        plain = [module for module in model.modules() if _is_plain(module)]
        self.layers = [
            m for m in plain if _class(m) in LAYERS and not any(id(p) in shared for p in m.parameters(recurse=False))
        ]
        self.foldable = [m for m in plain if _is_foldable(m)]

    def run(self, x: Tensor) -> None:
        batch_norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        handles = [m.register_forward_pre_hook(self._count) for m in {*self.layers, *batch_norms}]
        handles += [m.register_forward_hook(self._after) for m in self.layers]
        handles += [m.register_forward_pre_hook(self._before) for m in self.foldable]
        try:
            self.model(x.clone())  # a model may write into its input
        finally:
            for handle in handles:
                handle.remove()
        self.norms = sum(self.calls[module] > 0 for module in batch_norms)

    def pairs(self) -> list[tuple[Any, Any]]:
        """(layer, norm), each layer and each norm at most once."""
        uses = Counter(layer for layer, _ in self.met)
        return [(layer, norm) for layer, norm in self.met if self.calls[layer] == self.calls[norm] == uses[layer] == 1]

    def _count(self, module: nn.Module, args: Any) -> None:
        self.calls[module] += 1

    def _after(self, layer: Any, args: Any, output: Tensor) -> None:
        # a batch of (n, channels, ...): norm and layer mean the same axis by "channels"
        if output.dim() == layer.weight.dim():
            self.made[id(output)] = layer, output, output._version

    def _before(self, norm: nn.Module, args: Any) -> None:
        layer, output, version = self.made.get(id(args[0]) if args else 0, (None, None, 0))
        # the same tensor, but changed in place between the two: an activation, or a sum
        if layer is not None and output is not None and output._version == version:
            self.met.append((layer, norm))


def _is_plain(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module)


def _is_foldable(norm: Any) -> bool:
    timm = sys.modules.get("timm.layers")  # a model of timm's has imported it
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, *([timm.BatchNormAct2d] if timm else []))
    return type(norm) in kinds and norm.running_mean is not None and norm.running_var is not None


def _class(layer: nn.Module) -> type[nn.Module]:
    kind: type[nn.Module] = vars(type(layer)).get("computes_as", type(layer))
    return kind


class Folded(NamedTuple):
    """A copy of a model with batch norms folded.

    Args:
        model: the copy.
        folded: how many batch norms are now part of the layer before them.
        norms: how many batch norms the forward pass went through.
    """

    model: nn.Module
    folded: int
    norms: int


def folded(model: nn.Module, probe: Tensor) -> Folded:
    """A copy of ``model`` without the batch norms whose input is just what a convolution or linear layer returned.

    Folded are ``nn.BatchNorm1d`` and ``nn.BatchNorm2d`` with running statistics (also as the active branch of
    a ``BranchedNorm``) and timm's ``BatchNormAct2d``, whose activation stays. Left as they are: layers and
    norms that run more than once, that carry hooks or a forward of their own, whose weight is parametrised or
    shared, and all subclasses. The weights are computed in float64 and stored in the layer's own type.

    Args:
        model: in eval mode; it is left as it is.
        probe: images as the model takes them, (n, ...), on its device and in its type.

    Raises:
        ValueError: the model is in train mode.
        Exception: whatever a model raises that cannot be deep-copied, or that does not take ``probe``.
    """
    if any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        raise ValueError("a batch norm in train mode normalises by the batch: model.eval() before folding")
    with torch.inference_mode(False), torch.no_grad():
        new = copied(model)
        found = pairs(new, probe.clone())
        for layer, norm in found.pairs:
            kind, learns = layer.weight.dtype, layer.weight.requires_grad
            layer.weight, layer.bias = (nn.Parameter(p.to(kind), learns) for p in fused(layer, norm, torch.float64))
    instead = {id(norm): remainder(norm) for _, norm in found.pairs}
    for module in list(new.modules()):
        for name, child in module._modules.items():
            if id(child) in instead:
                module._modules[name] = instead[id(child)]
    return Folded(new, len(found.pairs), found.norms)


def fused(layer: Any, norm: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one layer that does what ``layer`` and then ``norm`` do in eval mode, without a graph."""

    def cast(t: Any) -> Any:
        return None if t is None else t.detach().to(dtype)

    weight, bias = fuse_conv_bn_weights(  # of linear layers too
        cast(layer.weight), cast(layer.bias), cast(norm.running_mean), cast(norm.running_var),
        norm.eps, cast(norm.weight), cast(norm.bias),
    )  # fmt: skip
    return weight.detach(), bias.detach()


def remainder(norm: Any) -> nn.Module:
    """What a norm does beside normalising."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


# Batch norm folded for the length of a block: how a perturbation passes through a model that is in training.
#
# :func:`~easybn.norm.fold.folded` makes a copy, for a model that will not change. Between two steps of training it
# does, so that here the layers' weights are put in place of the originals at every entry: a product for each weight,
# which is little beside a forward pass of a batch.

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
