"""Models: the paper's ResNets, small ones for CPUs, and any of timm's or torchvision's by name."""

from .registry import BUILT_IN, Normalise, build
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
