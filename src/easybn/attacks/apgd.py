"""APGD: projected gradient ascent with momentum that halves its own step size (Croce & Hein, 2020, algorithm 1)."""

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from ..perturb.ball import L2, Ball, Linf, per_sample
from .attack import Attack, Tracks, Try, around, counted, look_ahead, targets
from .losses import DLR, CrossEntropy, Loss, TargetedDLR
from .prepare import Prepared

LOSSES: dict[str, type[Loss]] = {"ce": CrossEntropy, "dlr": DLR, "t": TargetedDLR}
MOMENTUM = 0.75
RHO = 0.75  # a step size is halved if fewer than that share of the steps went up


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD, with the constants of the reference implementation.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        loss: "ce", "dlr" or "t" (targeted DLR, one try for each of the nearest classes).
        iterations: of each try.
        restarts: tries from other starts.
        target_classes: of "t", at most; K classes have K - 1.
        eot: forward and backward passes that are averaged for one gradient (expectation over transformation).
    """

    ball: Ball
    loss: str = "ce"
    iterations: int = 100
    restarts: int = 1
    target_classes: int = 9
    eot: int = 1
    _loss: Loss = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}; known: {', '.join(LOSSES)}")
        if not isinstance(self.ball, (L2, Linf)):
            raise ValueError(f"APGD knows the balls L2 and Linf, got {type(self.ball).__name__}")
        for name in ("iterations", "restarts", "target_classes", "eot"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        object.__setattr__(self, "_loss", LOSSES[self.loss]())

    @property
    def name(self) -> str:
        return f"apgd-{self.loss}"

    @property
    def moves(self) -> int:
        return self.iterations

    def tries(self, classes: int) -> list[Try]:
        ranks = range(1, targets(classes, self.target_classes) + 1) if self.loss == "t" else [0]
        return [Try(rank, restart) for rank in ranks for restart in range(self.restarts)]

    def begin(self, tracks: Tracks) -> None:
        centre, point = tracks["centre"], around(tracks, self.ball, float(self.ball.eps))
        rows, device = tracks.count, centre.device
        nothing = torch.zeros(rows, dtype=torch.float64, device=device)
        tracks.update(
            point=point, previous=point, best=point, gradient=torch.zeros_like(point),
            best_gradient=torch.zeros_like(point), loss=nothing, best_loss=nothing, checked_loss=nothing,
            losses=torch.zeros(rows, self.iterations, dtype=torch.float64, device=device),
            halved=torch.ones(rows, dtype=torch.bool, device=device),
            step=torch.full((rows,), 2 * float(self.ball.eps), dtype=centre.dtype, device=device),
        )  # fmt: skip

    def look(self, model: Prepared, tracks: Tracks) -> Tensor:
        logits = look_ahead(model, tracks, self.iterations, partial(self._climb, model, tracks))
        tracks["loss"] = self._loss.value(logits, tracks["label"], tracks["target"])
        return logits

    def _climb(self, model: Prepared, tracks: Tracks, rows: Tensor) -> Tensor:
        y, target, point = tracks["label"][rows], tracks["target"][rows], tracks["point"][rows].detach()
        total, scale = torch.zeros_like(point), torch.full((len(point),), -torch.inf, dtype=torch.float64)
        scale = scale.to(point.device)
        for _ in range(self.eot):
            point.requires_grad_()
            logits = model(point)
            (gradient,) = torch.autograd.grad(self._loss.ascent(logits, y, target).sum(), point)
            point, gradient = point.detach(), counted(tracks, rows, gradient)
            # the mean of the loss's own gradients, relative to the largest of their factors, which may underflow
            weight = self._loss.weight(logits.detach(), y, target)
            larger = torch.maximum(scale, weight)
            total = total * _factor(scale - larger, total) + gradient * _factor(weight - larger, total)
            scale = larger
        tracks.spent(rows, forwards=self.eot, backwards=self.eot)
        tracks.put(rows, gradient=total)
        return logits.detach()

    def move(self, model: Prepared, tracks: Tracks) -> None:
        self._remember(tracks)
        for i, window in checkpoints(self.iterations).items():
            due = tracks["age"] - 1 == i
            if due.any():
                self._check(tracks, due, i, window)
        centre, point = tracks["centre"], tracks["point"]
        inertia = point - tracks["previous"]
        tracks["previous"] = point
        momentum = per_sample(torch.where(tracks["age"] > 0, MOMENTUM, 1.0).to(point.dtype), point)
        stepped = self._inside(point + per_sample(tracks["step"], point) * self._direction(tracks["gradient"]), centre)
        tracks["point"] = self._inside(point + (stepped - point) * momentum + inertia * (1 - momentum), centre)

    def _remember(self, tracks: Tracks) -> None:
        age, loss = tracks["age"], tracks["loss"]
        first = age == 0
        better = first | (loss > tracks["best_loss"])
        for name, new in (("best", "point"), ("best_gradient", "gradient")):
            tracks[name] = torch.where(per_sample(better, tracks[new]), tracks[new], tracks[name])
        tracks["best_loss"] = torch.where(better, loss, tracks["best_loss"])
        tracks["checked_loss"] = torch.where(first, loss, tracks["checked_loss"])
        later = (~first).nonzero()[:, 0]
        if len(later):  # the start is not among the losses: the reference's first check sees a zero in its place
            losses = tracks["losses"].clone()
            losses[later, age[later] - 1] = loss[later]
            tracks["losses"] = losses

    def _check(self, tracks: Tracks, due: Tensor, i: int, window: int) -> None:
        """Halve the step of the ``due`` rows that do not get on, and take them back to their best point."""
        losses, best = tracks["losses"][due], tracks["best_loss"][due]
        now = losses[:, i - window + 1 : i + 1]
        before = losses[:, i - window : i] if i >= window else torch.cat((losses[:, -1:], losses[:, :i]), 1)
        oscillates = (now > before).sum(1) <= window * RHO
        stuck = ~tracks["halved"][due] & (tracks["checked_loss"][due] >= best)
        halve = oscillates | stuck
        tracks.put(due, halved=halve, checked_loss=best)
        back = due.clone()
        back[due] = halve
        tracks.put(
            back,
            step=tracks["step"][back] / 2, point=tracks["best"][back], gradient=tracks["best_gradient"][back],
        )  # fmt: skip

    def _direction(self, gradient: Tensor) -> Tensor:
        if isinstance(self.ball, Linf):
            return gradient.sign()
        return self.ball.steepest(gradient)

    def _inside(self, point: Tensor, centre: Tensor) -> Tensor:
        return self.ball.project(point, centre)


@cache
def checkpoints(iterations: int) -> dict[int, int]:
    """The iterations at which the step size is checked, and the number of steps since the check before."""
    window, least, less = (max(int(share * iterations), 1) for share in (0.22, 0.06, 0.03))
    out, i = {}, window - 1
    while i < iterations:
        out[i] = window
        window = max(window - less, least)
        i += window
    return out


def _factor(logarithm: Tensor, like: Tensor) -> Any:
    return per_sample(logarithm.exp().nan_to_num(nan=1.0), like).to(like.dtype)
