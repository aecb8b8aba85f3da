"""Batch norm folded into the layer before it: in eval mode both are linear, so that one layer does the work of two.

(conv(x) - mean) / sqrt(var + eps) * gamma + beta is a convolution with other weights (Jacob et al., 2018,
section 3.2). What :mod:`~easybn.norm.pairs` cannot see is that a layer's output is used somewhere else too: a
folded model has to be compared with the original before it is relied on.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..copying import copied
from .pairs import pairs


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
