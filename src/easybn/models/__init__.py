"""Models: the paper's ResNets, small ones for CPUs, and any of timm's or torchvision's by name."""

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

from .pixels import Normalise
from .registry import timm_model, torchvision_model
from .resnet import ResNet, resnet18, resnet50, resnet_small, resnet_tiny
from .weights import load, save, trained

__all__ = [
    "BUILT_IN",
    "Normalise",
    "ResNet",
    "build",
    "load",
    "resnet18",
    "resnet50",
    "resnet_small",
    "resnet_tiny",
    "save",
    "trained",
]

BUILT_IN = {"resnet18": resnet18, "resnet50": resnet50, "resnet_small": resnet_small, "resnet_tiny": resnet_tiny}


def build(
    name: str,
    num_classes: int = 10,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> nn.Module:
    """A model from images in [0, 1], (N, in_channels, H, W), to logits (N, num_classes).

    Args:
        name: one of ``BUILT_IN``, ``timm:NAME`` or ``torchvision:NAME``.
        mean, std: statistics of the training images in [0, 1], a number a channel, for the first layer;
            by default 0.5 and 0.25.
        options: passed on to the model.

    Raises:
        ValueError: an unknown name, or numbers of classes or channels that are none.
    """
    for option, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{option} must be a whole number from 1 on, got {number!r}")
    library, _, rest = name.partition(":")
    if library == "timm" and rest:
        network = timm_model(rest, num_classes, in_channels, **options)
    elif library == "torchvision" and rest:
        network = torchvision_model(rest, num_classes, in_channels, **options)
    elif name in BUILT_IN:
        network = BUILT_IN[name](num_classes, in_channels, **options)
    else:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"unknown model {name!r}{hint}; known: {', '.join(BUILT_IN)}, timm:NAME, torchvision:NAME")
    first = Normalise(mean or [0.5] * in_channels, std or [0.25] * in_channels)
    return nn.Sequential(OrderedDict(normalise=first, network=network))
