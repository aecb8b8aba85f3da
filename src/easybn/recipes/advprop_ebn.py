"""AdvProp and EBN together: three batch norms, for clean, adversarial and easy examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..norm.route import route
from ..perturb.ball import Linf
from ..perturb.goal import easy, random_target
from ..perturb.pgd import PGD
from .recipe import Context, Mode, Recipe, Term, perturbing


@dataclass(frozen=True)
class AdvPropEBN(Recipe):
    """Adversarial and easy examples, each through its own auxiliary branch (ours).

    The question that the two papers leave open: do adversarial and easy examples help with different things?
    Cost: 4.33 passes (13 forwards). Each perturbation is made through its own branch.

    Args:
        attack: of the adversarial examples (random target).
        easy_attack: of the easy examples.
        mode: of the model while they are made.
        clean_weight: factor of the clean loss.
        adv_weight: factor of the loss on adversarial examples.
        easy_weight: factor of the loss on easy examples.
        label_smoothing: in [0, 1), of all losses.
    """

    attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    easy_attack: PGD = PGD(Linf(1 / 255), steps=1, random_start=0.8)
    mode: Mode = "eval"
    clean_weight: float = 1 / 3
    adv_weight: float = 1 / 3
    easy_weight: float = 1 / 3
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "adv", "easy")
    order: ClassVar[int] = 40
    colour: ClassVar[tuple[str, str] | None] = ("#a8477f", "#e795c4")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        with perturbing(model, "adv", self.mode):
            x_adv = self.attack(model, x, random_target(y, ctx.noise("target")), ctx.noise("adv"))
        with perturbing(model, "easy", self.mode):
            x_easy = self.easy_attack(model, x, easy(y), ctx.noise("easy"))
        for branch, images, weight in (
            ("main", x, self.clean_weight),
            ("adv", x_adv, self.adv_weight),
            ("easy", x_easy, self.easy_weight),
        ):
            with route(model, branch):
                yield Term.cross_entropy(branch, model(images.clone()), y, weight, self.label_smoothing)
