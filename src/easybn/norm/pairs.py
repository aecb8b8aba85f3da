"""Which batch norm normalises just what which layer returned: the pairs that can be folded into one.

Seen in a forward pass, by hooks, and not by tracing: that works with any control flow, on tensors alone. What
hooks cannot see is that a layer's output is used somewhere else too, so that a folded model has to be compared
with the original before it is relied on.
"""

import sys
from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
