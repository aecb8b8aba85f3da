"""Training methods, one file each. A new one is a file like these, here or anywhere."""

from .adversarial_training import AdversarialTraining
from .advprop import AdvProp
from .advprop_ebn import AdvPropEBN
from .ebn import EBN
from .ebn_shared import EBNShared
from .fast_advprop import FastAdvProp
from .fast_ebn import FastEBN
from .recipe import Context, Recipe, Term, perturbing
from .vanilla import Vanilla

__all__ = [
    "EBN",
    "AdvProp",
    "AdvPropEBN",
    "AdversarialTraining",
    "Context",
    "EBNShared",
    "FastAdvProp",
    "FastEBN",
    "Recipe",
    "Term",
    "Vanilla",
    "perturbing",
]
