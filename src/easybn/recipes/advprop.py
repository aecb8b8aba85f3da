"""AdvProp: adversarial examples, through a batch norm of their own, as extra training data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..norm.route import route
from ..perturb.ball import Linf
from ..perturb.goal import random_target, untargeted
from ..perturb.pgd import PGD
from .recipe import Context, Mode, Term, perturbing


@dataclass(frozen=True)
class AdvProp:
    """AdvProp (Xie et al. 2020, algorithm 1), with the attack of the code that the EBN paper built on.

    One random-target step within 1/255 through the auxiliary branch in eval mode; then the clean batch
    through the main branch and the perturbed one through the auxiliary branch, both in train mode.
    Cost: 2.67 passes (8 forwards). Where perturbations are too small to matter it is vanilla at half
    the learning rate, plus the cost.

    Args:
        attack: ball, steps, step size and start of the perturbation.
        target: "random" class other than the true one, or "untargeted".
        through: the branch that the perturbation is made for.
        mode: of the model meanwhile.
        clean_weight, adv_weight: factors of the two losses; 0.5 + 0.5 is the mean, the AdvProp paper has
            the sum, 1 + 1.
        label_smoothing: in [0, 1), of both losses.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, step_size=1 / 255, random_start=0.8)
    target: Literal["random", "untargeted"] = "random"
    through: Literal["main", "adv"] = "adv"
    mode: Mode = "eval"
    clean_weight: float = 0.5
    adv_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "adv")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        goal = untargeted(y) if self.target == "untargeted" else random_target(y, ctx.noise("target"))
        with perturbing(model, self.through, self.mode):
            x_adv = self.attack(model, x, goal, ctx.noise("adv"))
        with route(model, "main"):
            logits = model(x)
            loss = cross_entropy(logits.float(), y, label_smoothing=self.label_smoothing)
            yield Term("main", loss, self.clean_weight, logits, y)
        with route(model, "adv"):
            logits = model(x_adv)
            loss = cross_entropy(logits.float(), y, label_smoothing=self.label_smoothing)
            yield Term("adv", loss, self.adv_weight, logits, y)
