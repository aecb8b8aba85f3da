"""PGD (Madry et al., 2018) as an evaluation attack: a fixed step, a loss that does not saturate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import Ball, per_sample
from .attack import Attack, Tracks, Try, counted, look_ahead
from .losses import Objective, log_odds, margin
from .prepare import Prepared

OBJECTIVES: dict[str, Objective] = {"ce": log_odds, "margin": margin}


@dataclass(frozen=True)
class PGDSweep(Attack):
    """Steepest ascent with a fixed step; a point falls at any misclassified iterate.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        loss: "ce" (climbs in the direction of the cross-entropy) or "margin".
        steps: at least 1.
        step_size: in the ball's norm, in [0, 1] pixel units; default 2.5 * eps / steps.
        random_start: start from a random point of the ball rather than from the image.
        restarts: tries from other starts; more than one only with ``random_start``.
    """

    ball: Ball
    loss: str = "ce"
    steps: int = 100
    step_size: float | None = None
    random_start: bool = False
    restarts: int = 1

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
    def moves(self) -> int:
        return self.steps

    @property
    def step_length(self) -> float:
        """The step size, the default resolved."""
        return 2.5 * float(self.ball.eps) / self.steps if self.step_size is None else self.step_size

    def tries(self, classes: int) -> list[Try]:
        return [Try(0, restart) for restart in range(self.restarts)]

    def begin(self, tracks: Tracks) -> None:
        if self.random_start:
            tracks["point"] = self.ball.random(tracks["centre"], Noise(tracks["key"]).child("start"))
        tracks["gradient"] = torch.zeros_like(tracks["centre"])

    def look(self, model: Prepared, tracks: Tracks) -> Tensor:
        def climb(rows: Tensor) -> Tensor:
            point = tracks["point"][rows].detach().requires_grad_()
            logits = model(point)
            # a sum: an image's gradient does not depend on how many others there are
            (gradient,) = torch.autograd.grad(OBJECTIVES[self.loss](logits, tracks["label"][rows]).sum(), point)
            tracks.spent(rows, forwards=1, backwards=1)
            tracks.put(rows, gradient=counted(tracks, rows, gradient))
            return logits.detach()

        return look_ahead(model, tracks, self.steps, climb)

    def move(self, model: Prepared, tracks: Tracks) -> None:
        point, step = tracks["point"], torch.full_like(tracks["reach"], self.step_length)
        step = per_sample(step.to(point.dtype), point)
        tracks["point"] = self.ball.project(point + step * self.ball.steepest(tracks["gradient"]), tracks["centre"])
