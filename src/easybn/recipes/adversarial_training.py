"""Adversarial training, the robust reference: one batch norm, adversarial examples only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..perturb.ball import Linf
from ..perturb.goal import untargeted
from ..perturb.pgd import PGD
from .recipe import Context, Mode, Recipe, Term, perturbing


@dataclass(frozen=True)
class AdversarialTraining(Recipe):
    """PGD adversarial training (Madry et al. 2018, equation 2.1).

    The model is trained on adversarial images alone. It shows what a truly robust model costs: clean accuracy is
    several points lower, and a step takes 1 + 2/3 * steps passes (7.67 by default).

    Args:
        attack: untargeted; by default 10 steps of 2/255 within l-infinity 8/255 from a random start.
        mode: of the model while it is attacked.
        label_smoothing: in [0, 1).
    """

    attack: PGD = PGD(Linf(8 / 255), steps=10, random_start=True)
    mode: Mode = "eval"
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main",)
    order: ClassVar[int] = 70
    colour: ClassVar[tuple[str, str] | None] = ("#1d2126", "#f0f2f4")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        with perturbing(model, mode=self.mode):
            x_adv = self.attack(model, x, untargeted(y), ctx.noise("adv"))
        yield Term.cross_entropy("main", model(x_adv), y, 1.0, self.label_smoothing)
