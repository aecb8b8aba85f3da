"""Training methods (recipes), one file each. A new one is a file like these, in this folder or anywhere.

Every recipe in this folder is found, see :data:`RECIPES`; those imported by name below are for
``from easybn.recipes import EBN``.
"""

from importlib import import_module
from pkgutil import iter_modules

from .adversarial_training import AdversarialTraining
from .advprop import AdvProp
from .advprop_ebn import AdvPropEBN
from .ebn import EBN
from .ebn_shared import EBNShared
from .fast_advprop import FastAdvProp
from .fast_ebn import FastEBN
from .light_adversarial import LightAdversarialTraining
from .recipe import Context, Recipe, Term, perturbing
from .vanilla import Vanilla

__all__ = [
    "RECIPES",
    "EBN",
    "AdvProp",
    "AdvPropEBN",
    "AdversarialTraining",
    "Context",
    "EBNShared",
    "FastAdvProp",
    "FastEBN",
    "LightAdversarialTraining",
    "Recipe",
    "Term",
    "Vanilla",
    "perturbing",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

RECIPES: dict[str, type[Recipe]] = {
    recipe.__name__: recipe
    for recipe in sorted(Recipe.__subclasses__(), key=lambda recipe: (recipe.order, recipe.__name__))
    if recipe.__module__.startswith(f"{__name__}.")
}
"""The recipes of this folder by name, in the order of tables."""
