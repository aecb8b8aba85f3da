"""Easy Batch Normalization: perturbed easy examples through their own batch norms."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..norm.route import route
from ..perturb.ball import Linf
from ..perturb.goal import easy
from ..perturb.pgd import PGD
from .recipe import Context, Mode, Recipe, Term, perturbing


@dataclass(frozen=True)
class EBN(Recipe):
    """Easy Batch Normalization (Asadulaev et al., equation 1 with the true label, and section 3).

    One step within 1/255 that makes an image easier for its true class, taken through the auxiliary
    branch in eval mode; then the clean batch through the main branch and the easy one through the
    auxiliary branch, both in train mode. Cost: 2.67 passes (8 forwards). An easy image gives its label
    away: if the auxiliary loss falls to 0, this is vanilla at half the learning rate, so watch it.

    Args:
        attack: ball, steps, step size and start of the perturbation.
        through: the branch that the perturbation is made for (the paper does not say).
        mode: of the model meanwhile.
        clean_weight: factor of the clean loss.
        easy_weight: factor of the loss on easy examples.
        label_smoothing: in [0, 1), of both losses.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    through: Literal["main", "easy"] = "easy"
    mode: Mode = "eval"
    clean_weight: float = 0.5
    easy_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "easy")
    order: ClassVar[int] = 20
    colour: ClassVar[tuple[str, str] | None] = ("#0069a8", "#62b6f7")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        with perturbing(model, self.through, self.mode):
            x_easy = self.attack(model, x, easy(y), ctx.noise("easy"))
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with route(model, "easy"):
            yield Term.cross_entropy("easy", model(x_easy), y, self.easy_weight, self.label_smoothing)
