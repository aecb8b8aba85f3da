"""Batch norm folded into the layer before it: in eval mode both are linear, so that one layer does the work of two.

(conv(x) - mean) / sqrt(var + eps) * gamma + beta is a convolution with other weights (Jacob et al., 2018,
section 3.2). Which layer comes before which norm is seen in a forward pass, by hooks, and not by tracing:
that works with any control flow, on tensors alone. What hooks cannot see is that a layer's output is used
somewhere else too, so that a folded model has to be compared with the original before it is relied on.
"""

import copy
import sys
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers a norm is folded into: these classes alone, since a subclass may do anything with its weight."""


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
        copied = copy.deepcopy(model)
        seen = _Pass(copied)
        seen.run(probe.clone())
        pairs = seen.pairs()
        for layer, norm in pairs:
            _fuse(layer, norm)
    instead = {id(norm): _remainder(norm) for _, norm in pairs}
    for module in list(copied.modules()):
        for name, child in module._modules.items():
            if id(child) in instead:
                module._modules[name] = instead[id(child)]
    return Folded(copied, len(pairs), seen.norms)


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
            m for m in plain if type(m) in LAYERS and not any(id(p) in shared for p in m.parameters(recurse=False))
        ]
        self.foldable = [m for m in plain if _is_foldable(m)]

    def run(self, x: Tensor) -> None:
        batch_norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        handles = [m.register_forward_pre_hook(self._count) for m in {*self.layers, *batch_norms}]
        handles += [m.register_forward_hook(self._after) for m in self.layers]
        handles += [m.register_forward_pre_hook(self._before) for m in self.foldable]
        try:
            self.model(x)
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


def _fuse(layer: Any, norm: Any) -> None:
    def wide(t: Any) -> Any:
        return None if t is None else t.double()

    weight, bias = fuse_conv_bn_weights(  # of linear layers too
        wide(layer.weight), wide(layer.bias), wide(norm.running_mean), wide(norm.running_var),
        norm.eps, wide(norm.weight), wide(norm.bias),
    )  # fmt: skip
    kind, learns = layer.weight.dtype, layer.weight.requires_grad
    layer.weight, layer.bias = (nn.Parameter(p.detach().to(kind), learns) for p in (weight, bias))


def _remainder(norm: Any) -> nn.Module:
    """What a norm does beside normalising."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
