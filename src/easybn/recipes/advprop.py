"""AdvProp: adversarial examples as extra training data, through their own batch norms."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..norm.route import route
from ..perturb.ball import Linf
from ..perturb.goal import random_target, untargeted
from ..perturb.pgd import PGD
from .recipe import Context, Mode, Recipe, Term, perturbing


@dataclass(frozen=True)
class AdvProp(Recipe):
    """AdvProp (Xie et al. 2020, algorithm 1), with the attack of the code that the EBN paper built on.

    One step within 1/255 towards a random class, made through the auxiliary branch in eval mode; then the clean batch
    through the main branch and the perturbed one through the auxiliary branch, both in train mode.
    Cost: 2.67 passes (8 forwards). Where perturbations are too small to matter, it is vanilla at half the learning
    rate for a higher price.

    Args:
        attack: ball, steps, step size and start of the perturbation.
        target: "random" class other than the true one, or "untargeted".
        through: the branch that the perturbation is made for.
        mode: of the model meanwhile.
        clean_weight: factor of the clean loss; 0.5 + 0.5 is the mean, the AdvProp paper has the sum, 1 + 1.
        adv_weight: factor of the loss on adversarial examples.
        label_smoothing: in [0, 1), of both losses.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    target: Literal["random", "untargeted"] = "random"
    through: Literal["main", "adv"] = "adv"
    mode: Mode = "eval"
    clean_weight: float = 0.5
    adv_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "adv")
    order: ClassVar[int] = 10
    colour: ClassVar[tuple[str, str] | None] = ("#c65200", "#ff9a52")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        goal = untargeted(y) if self.target == "untargeted" else random_target(y, ctx.noise("target"))
        with perturbing(model, self.through, self.mode):
            x_adv = self.attack(model, x, goal, ctx.noise("adv"))
        with route(model, "main"):
            yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with route(model, "adv"):
            yield Term.cross_entropy("adv", model(x_adv), y, self.adv_weight, self.label_smoothing)
