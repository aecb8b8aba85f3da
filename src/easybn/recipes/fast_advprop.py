"""Fast AdvProp: a fifth of the batch is adversarial instead of clean, and both of its passes train."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..keyed_random import Noise
from ..norm.route import route
from ..perturb.ball import Ball, Linf
from ..perturb.pgd import check_images
from .recipe import Context, Recipe, Term, leaf_copy, rebalanced, shared_gradient


@dataclass(frozen=True)
class FastAdvProp(Recipe):
    """Fast AdvProp (Mei et al. 2022): decoupled samples, a re-used gradient, rebalanced updates.

    Of a batch of N + M images the last M = fraction * (N + M) are never seen clean (the batch's order being
    random, so is the choice). The first N go through the main branch. The M get uniform noise of the ball
    and go through the auxiliary branch in train mode; that backward pass trains, and its gradient at the
    images makes x_adv = Proj[x_noisy + step * sign], away from the true class, which goes through the
    auxiliary branch too::

        loss = [sum_N L(x) + noisy_weight * sum_M L(x_noisy) + adv_weight * sum_M L(x_adv)] / (N + M)

    That is the gradient of the shared parameters; main's own are divided by N and the auxiliary ones by M
    instead. Cost: (N + 2 M) / (N + M) = 1 + fraction = 1.2 passes: divide the epochs by it, for vanilla's
    price in all. With 0.2 of a batch of 320 these are the paper's 256 + 64.
    The gain is small even where there is one (ImageNet, RN-50: 76.2 vanilla, 76.5 this, 77.5 AdvProp at 3
    times the price; 75.4 at fraction 0.5); in a short training the epochs given up may cost more.

    Args:
        fraction: M / (N + M), in (0, 1); rounded to at least one image of each kind. A batch of one is clean.
        ball: of the noise and of the perturbation.
        step_size: in [0, 1] pixel units and the ball's norm; by default the ball's eps.
        noisy_weight: factor of the loss on the noisy images, positive.
        adv_weight: factor of the loss on the adversarial ones.
        label_smoothing: in [0, 1), of all losses and so of the perturbation.
    """

    fraction: float = 0.2
    ball: Ball = Linf(1 / 255)
    step_size: float | Fraction | None = None
    noisy_weight: float = 0.5
    adv_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "adv")
    order: ClassVar[int] = 50
    colour: ClassVar[tuple[str, str] | None] = ("#8f6a00", "#e3b63c")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be in (0, 1), got {self.fraction}")
        if not self.noisy_weight > 0:
            raise ValueError(f"noisy_weight must be positive, got {self.noisy_weight}: its gradient is used again")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        total = len(x)
        m = min(max(round(self.fraction * total), 1), total - 1)
        n = total - m
        with rebalanced(model, {"main": n, "adv": m}):
            with route(model, "main"):
                yield Term.cross_entropy("main", model(x[:n].clone()), y[:n], n / total, self.label_smoothing)
            if not m:
                return
            extra, labels, noise = x[n:].detach(), y[n:], ctx.noise("adv")
            noise = Noise.fresh(m, x.device) if noise is None else Noise(noise.keys[n:])
            x_noisy = self.ball.random(extra, noise).requires_grad_()
            with route(model, "adv"):
                weight = self.noisy_weight * m / total
                yield Term.cross_entropy(
                    "noisy", model(leaf_copy(model, x_noisy)), labels, weight, self.label_smoothing
                )
            size = float(self.ball.eps if self.step_size is None else self.step_size)
            with torch.no_grad():
                x_adv = self.ball.project(x_noisy + size * self.ball.steepest(shared_gradient(x_noisy)), extra)
            with route(model, "adv"):
                weight = self.adv_weight * m / total
                yield Term.cross_entropy("adv", model(x_adv), labels, weight, self.label_smoothing)
