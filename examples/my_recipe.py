"""A recipe of one's own in one file: consistency of the easy branch with the clean one.

easybn train --recipe examples/my_recipe.py:EasyConsistency --recipe.weight 0.3 --epochs 2
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from easybn import PGD, Linf, easy, route
from easybn.recipes import Context, Recipe, Term, perturbing


@dataclass(frozen=True)
class EasyConsistency(Recipe):
    """The easy branch learns what the main branch says of the clean image, rather than the label.

    Args:
        attack: makes the easy images.
        weight: factor of the consistency loss.
    """

    attack: PGD = PGD(Linf(4 / 255))
    weight: float = 0.5
    branches: ClassVar[tuple[str, ...]] = ("main", "easy")
    label: ClassVar[str] = "Consistency"  # in tables and the report
    colour: ClassVar[tuple[str, str] | None] = ("#5d5bb8", "#a9a7ff")  # there, on light and on dark pages

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        with perturbing(model, "easy"):
            x_easy = self.attack(model, x, easy(y), ctx.noise("easy"))
        with route(model, "main"):
            clean = model(x)
            yield Term.cross_entropy("main", clean, y, weight=1.0)
        with route(model, "easy"):
            logits, target = model(x_easy), F.softmax(clean.detach().float(), 1)
            loss = F.kl_div(F.log_softmax(logits.float(), 1), target, reduction="batchmean")
            yield Term("easy", loss, self.weight, logits.detach(), y)
