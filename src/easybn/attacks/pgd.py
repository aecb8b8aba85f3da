"""PGD (Madry et al., 2018) as an evaluation attack: a fixed step, a loss that does not saturate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import Ball, per_sample
from .attack import Attack, AttackState, Attempt, Variants, evaluate_with_gradient, finite_gradient
from .attack_mode import TargetModel
from .losses import Objective, log_odds, margin

OBJECTIVES: dict[str, Objective] = {"ce": log_odds, "margin": margin}


@dataclass(frozen=True)
class PGDSweep(Attack):
    """Steepest ascent with a fixed step; any misclassified iterate counts as a success.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        loss: "ce" (climbs in the direction of the cross-entropy) or "margin".
        steps: at least 1.
        step_size: in the ball's norm, in [0, 1] pixel units; default 2.5 * eps / steps.
        random_start: start from a random point of the ball rather than from the image.
        restarts: attempts from other starts; more than one only with ``random_start``.
    """

    ball: Ball
    loss: str = "ce"
    steps: int = 100
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    variants: ClassVar[Variants] = {"pgd-ce": {"loss": "ce"}, "pgd-margin": {"loss": "margin"}}
    order = 40

    def __post_init__(self) -> None:
        if self.loss not in OBJECTIVES:
            raise ValueError(f"unknown loss {self.loss!r}; known: {', '.join(OBJECTIVES)}")
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be a positive number in [0, 1] pixel units, got {self.step_size}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts from the same image do the same: set random_start")

    @property
    def name(self) -> str:
        return f"pgd-{self.loss}"

    @property
    def step_length(self) -> float:
        """The step size, the default resolved."""
        return 2.5 * float(self.ball.eps) / self.steps if self.step_size is None else self.step_size

    def attempts(self, classes: int) -> list[Attempt]:
        return [Attempt(0, restart) for restart in range(self.restarts)]

    def init(self, state: AttackState) -> None:
        if self.random_start:
            state["image"] = self.ball.random(state["original"], Noise(state["key"]).child("start"))
        state["gradient"] = torch.zeros_like(state["original"])

    def evaluate(self, model: TargetModel, state: AttackState) -> Tensor:
        def differentiate(rows: Tensor) -> Tensor:
            image = state["image"][rows].detach().requires_grad_()
            logits = model(image)
            # a sum: an image's gradient does not depend on how many others there are
            (gradient,) = torch.autograd.grad(OBJECTIVES[self.loss](logits, state["label"][rows]).sum(), image)
            state.count_passes(rows, forwards=1, backwards=1)
            state.update_rows(rows, gradient=finite_gradient(state, rows, gradient))
            return logits.detach()

        return evaluate_with_gradient(model, state, self.steps, differentiate)

    def step(self, model: TargetModel, state: AttackState) -> None:
        image, step_size = state["image"], torch.full_like(state["best_distance"], self.step_length)
        step_size = per_sample(step_size.to(image.dtype), image)
        ascent = step_size * self.ball.steepest(state["gradient"])
        state["image"] = self.ball.project(image + ascent, state["original"])
