"""Fast EBN: easy copies of a fifth of the batch, made with the gradient that the clean pass computes anyway."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..norm.route import route
from ..perturb.ball import Ball, Linf
from ..perturb.pgd import check_images
from .recipe import Context, Recipe, Term, leaf_copy, rebalanced, shared_gradient


@dataclass(frozen=True)
class FastEBN(Recipe):
    """EBN at vanilla's price: EBNShared's gradient, Fast AdvProp's fraction and rebalancing (ours).

    All N images of a batch go through the main branch. That one backward pass gives the parameters'
    gradients and the images'; the last M = fraction * N images (the batch's order being random, so is the
    choice) take a step down their own loss, x_easy = Proj[x - step * sign], and go through the auxiliary
    branch::

        loss = [sum_N L(x) + easy_weight * sum_M L(x_easy)] / (N + M)

    That is the gradient of the shared parameters; main's own are divided by N and the auxiliary ones by M
    instead. Cost: 1 + fraction = 1.2 passes: divide the epochs by it, for vanilla's price in all.
    As with EBN an easy image gives its label away: where the auxiliary loss falls to 0 this is vanilla at
    1 / 1.2 of the learning rate and of the epochs, so watch it.

    Args:
        fraction: M / N, in (0, 1]; rounded to at least one image.
        ball: of the perturbation.
        step_size: in [0, 1] pixel units and the ball's norm; by default the ball's eps.
        easy_weight: factor of the loss on easy examples; 1 counts each like a clean one.
        label_smoothing: in [0, 1), of both losses and so of the perturbation.
    """

    fraction: float = 0.2
    ball: Ball = Linf(1 / 255)
    step_size: float | Fraction | None = None
    easy_weight: float = 1.0
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "easy")
    order: ClassVar[int] = 60
    colour: ClassVar[tuple[str, str] | None] = ("#1e8fc4", "#a6dcfa")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        n = len(x)
        m = max(round(self.fraction * n), 1)
        with rebalanced(model, {"main": n, "easy": m}):
            x = x.detach().requires_grad_()
            with route(model, "main"):
                yield Term.cross_entropy("main", model(leaf_copy(model, x)), y, n / (n + m), self.label_smoothing)
            size = float(self.ball.eps if self.step_size is None else self.step_size)
            with torch.no_grad():
                part, gradient = x[n - m :], shared_gradient(x)[n - m :]
                x_easy = self.ball.project(part - size * self.ball.steepest(gradient), part)
            x = x.detach()  # the images' gradient is no longer needed
            with route(model, "easy"):
                weight = self.easy_weight * m / (n + m)
                yield Term.cross_entropy("easy", model(x_easy), y[n - m :], weight, self.label_smoothing)
