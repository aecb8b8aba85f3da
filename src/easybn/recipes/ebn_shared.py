"""EBN with a shared gradient: the backward pass of the clean loss also gives the easy examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..norm.route import route
from ..perturb.ball import Ball, Linf
from ..perturb.pgd import check_images
from .recipe import Context, Recipe, Term, leaf_copy, shared_gradient


@dataclass(frozen=True)
class EBNShared(Recipe):
    """EBN whose easy step descends the clean training loss itself (ours; exact, not an approximation).

    For a one-step easy example that starts from the image and is made through the main branch in train
    mode, the loss being descended *is* the clean training loss: its one backward pass gives the parameter
    gradients and the images' gradient together. Cost: 2 passes (6 forwards) against EBN's 2.67. It is a
    variant: EBN's default goes through the auxiliary branch in eval mode, another direction.

    Args:
        ball: of the perturbation.
        step_size: in [0, 1] pixel units and the ball's norm; by default the ball's eps.
        clean_weight: factor of the clean loss, not 0.
        easy_weight: factor of the loss on easy examples.
        label_smoothing: in [0, 1), of both losses and so of the perturbation.
    """

    ball: Ball = Linf(1 / 255)
    step_size: float | Fraction | None = None
    clean_weight: float = 0.5
    easy_weight: float = 0.5
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main", "easy")
    order: ClassVar[int] = 30
    colour: ClassVar[tuple[str, str] | None] = ("#00805c", "#3fcf9f")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clean_weight == 0:
            raise ValueError("clean_weight 0 leaves no gradient to share: use EBN(clean_weight=0) instead")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        check_images(x, y)
        x = x.detach().requires_grad_()
        with route(model, "main"):
            yield Term.cross_entropy("main", model(leaf_copy(model, x)), y, self.clean_weight, self.label_smoothing)
        gradient = shared_gradient(x)
        size = float(self.ball.eps if self.step_size is None else self.step_size)
        with torch.no_grad():
            sign = 1.0 if self.clean_weight > 0 else -1.0
            x_easy = self.ball.project(x - sign * size * self.ball.steepest(gradient), x)
        x = x.detach()  # the images' gradient is no longer needed
        with route(model, "easy"):
            yield Term.cross_entropy("easy", model(x_easy), y, self.easy_weight, self.label_smoothing)
