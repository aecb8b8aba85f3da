"""Adversarial training by a small weight: one batch norm, clean images, and adversarial ones that move no statistic."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..modes import frozen_stats
from ..perturb.ball import Linf
from ..perturb.goal import untargeted
from ..perturb.pgd import PGD
from .recipe import Context, Mode, Recipe, Term, perturbing


@dataclass(frozen=True)
class LightAdversarialTraining(Recipe):
    """The clean loss and, by a small weight, that of adversarial images (Goodfellow et al. 2015, section 6: by 0.5).

    There are no branches. Adversarial images are normalised by their own batch and move no running statistic, so that
    those of deployment are of clean images, which is what an auxiliary batch norm is for. A step takes the passes of
    AdvProp (2.67 by default). The baseline for recipes with branches: in docs/easy.md it lies above AdvProp.

    Args:
        attack: untargeted; by default that of AdvProp (one step from a random point) within l-infinity 8/255.
        mode: of the model while it is attacked.
        clean_weight: factor of the loss on clean images.
        adv_weight: factor of the loss on adversarial images.
        label_smoothing: in [0, 1).
    """

    attack: PGD = PGD(Linf(8 / 255), steps=1, random_start=0.8)
    mode: Mode = "eval"
    clean_weight: float = 0.9
    adv_weight: float = 0.1
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main",)
    order: ClassVar[int] = 65
    colour: ClassVar[tuple[str, str] | None] = ("#9c2f3d", "#ff9099")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        with perturbing(model, mode=self.mode):
            x_adv = self.attack(model, x, untargeted(y), ctx.noise("adv"))
        yield Term.cross_entropy("main", model(x.clone()), y, self.clean_weight, self.label_smoothing)
        with frozen_stats(model):
            yield Term.cross_entropy("adv", model(x_adv), y, self.adv_weight, self.label_smoothing)
