"""Every recipe of the package, found by import."""

import importlib
import pkgutil

import torch
from torch import nn

import easybn.recipes
from easybn import convert
from easybn.models import build
from easybn.recipes import Recipe

for module in pkgutil.iter_modules(easybn.recipes.__path__):
    importlib.import_module(f"easybn.recipes.{module.name}")


def every_recipe() -> list[type[Recipe]]:
    """All subclasses defined in the package, in the order of their names."""
    found = [c for c in Recipe.__subclasses__() if c.__module__.startswith("easybn.")]
    return sorted(found, key=lambda c: c.__name__)


def ready(recipe: Recipe, share=None, **options) -> nn.Module:
    """A small model with the recipe's branches, in train mode."""
    torch.manual_seed(0)
    model = build("resnet_tiny", num_classes=4, **options)
    return convert(model, recipe.branches, share=share) if len(recipe.branches) > 1 else model


def batch(n: int = 8, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(n, 3, 16, 16), torch.arange(n) % classes
