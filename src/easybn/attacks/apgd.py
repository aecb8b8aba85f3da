"""APGD: projected gradient ascent with momentum that halves its own step size (Croce & Hein, 2020, algorithm 1)."""

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..perturb.ball import L2, Ball, Linf, per_sample
from .attack import (
    Attack,
    AttackState,
    Attempt,
    Variants,
    evaluate_with_gradient,
    finite_gradient,
    random_start,
    target_count,
)
from .attack_mode import TargetModel
from .losses import DLR, CrossEntropy, Loss, TargetedDLR

LOSSES: dict[str, type[Loss]] = {"ce": CrossEntropy, "dlr": DLR, "t": TargetedDLR}
MOMENTUM = 0.75
RHO = 0.75  # a step size is halved if no more than that share of the steps increased the loss


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD, with the constants of the reference implementation.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        loss: "ce", "dlr" or "t" (targeted DLR, one attempt for each of the nearest classes).
        iterations: of each attempt.
        restarts: attempts from other starts.
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
    variants: ClassVar[Variants] = {"apgd-ce": {"loss": "ce"}, "apgd-dlr": {"loss": "dlr"}, "apgd-t": {"loss": "t"}}
    order = 10

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
    def steps(self) -> int:
        return self.iterations

    @property
    def least_passes(self) -> tuple[int, int]:
        return self.eot * self.iterations + 1, self.eot * self.iterations

    @property
    def min_classes(self) -> int:
        return {"dlr": 3, "t": 4}.get(self.loss, 2)

    def attempts(self, classes: int) -> list[Attempt]:
        ranks = range(1, target_count(classes, self.target_classes) + 1) if self.loss == "t" else [0]
        return [Attempt(rank, restart) for rank in ranks for restart in range(self.restarts)]

    def init(self, state: AttackState) -> None:
        original, image = state["original"], random_start(state, self.ball, float(self.ball.eps))
        rows, device = state.count, original.device
        zero = torch.zeros(rows, dtype=torch.float64, device=device)
        state.update(
            image=image, previous=image, best=image, gradient=torch.zeros_like(image),
            best_gradient=torch.zeros_like(image), loss=zero, best_loss=zero, checked_loss=zero,
            losses=torch.zeros(rows, self.iterations, dtype=torch.float64, device=device),
            halved=torch.ones(rows, dtype=torch.bool, device=device),
            step_size=torch.full((rows,), 2 * float(self.ball.eps), dtype=original.dtype, device=device),
        )  # fmt: skip

    def evaluate(self, model: TargetModel, state: AttackState) -> Tensor:
        logits = evaluate_with_gradient(model, state, self.iterations, partial(self._differentiate, model, state))
        state["loss"] = self._loss.value(logits, state["label"], state["target"])
        return logits

    def _differentiate(self, model: TargetModel, state: AttackState, rows: Tensor) -> Tensor:
        y, target, image = state["label"][rows], state["target"][rows], state["image"][rows].detach()
        total, scale = torch.zeros_like(image), torch.full((len(image),), -torch.inf, dtype=torch.float64)
        scale = scale.to(image.device)
        for _ in range(self.eot):
            image.requires_grad_()
            logits = model(image)
            (gradient,) = torch.autograd.grad(self._loss.ascent(logits, y, target).sum(), image)
            image, gradient = image.detach(), finite_gradient(state, rows, gradient)
            # the mean of the loss's own gradients, relative to the largest of their factors, which may underflow
            weight = self._loss.weight(logits.detach(), y, target)
            larger = torch.maximum(scale, weight)
            total = total * _factor(scale - larger, total) + gradient * _factor(weight - larger, total)
            scale = larger
        state.count_passes(rows, forwards=self.eot, backwards=self.eot)
        state.update_rows(rows, gradient=total)
        return logits.detach()

    def step(self, model: TargetModel, state: AttackState) -> None:
        self._remember_best(state)
        for i, window in checkpoints(self.iterations).items():
            due = state["iteration"] - 1 == i
            if due.any():
                self._check_step_size(state, due, i, window)
        original, image = state["original"], state["image"]
        inertia = image - state["previous"]
        state["previous"] = image
        momentum = per_sample(torch.where(state["iteration"] > 0, MOMENTUM, 1.0).to(image.dtype), image)
        ascent = per_sample(state["step_size"], image) * self._direction(state["gradient"])
        stepped = self.ball.project(image + ascent, original)
        state["image"] = self.ball.project(image + (stepped - image) * momentum + inertia * (1 - momentum), original)

    def _remember_best(self, state: AttackState) -> None:
        iteration, loss = state["iteration"], state["loss"]
        first = iteration == 0
        better = first | (loss > state["best_loss"])
        for name, new in (("best", "image"), ("best_gradient", "gradient")):
            state[name] = torch.where(per_sample(better, state[new]), state[new], state[name])
        state["best_loss"] = torch.where(better, loss, state["best_loss"])
        state["checked_loss"] = torch.where(first, loss, state["checked_loss"])
        later = (~first).nonzero()[:, 0]
        if len(later):  # the start is not among the losses: the reference's first check sees a zero in its place
            losses = state["losses"].clone()
            losses[later, iteration[later] - 1] = loss[later]
            state["losses"] = losses

    def _check_step_size(self, state: AttackState, due: Tensor, i: int, window: int) -> None:
        """Halve the step size of the ``due`` rows that make no progress, and take them back to their best image."""
        losses, best = state["losses"][due], state["best_loss"][due]
        current = losses[:, i - window + 1 : i + 1]
        before = losses[:, i - window : i] if i >= window else torch.cat((losses[:, -1:], losses[:, :i]), 1)
        oscillates = (current > before).sum(1) <= window * RHO
        stuck = ~state["halved"][due] & (state["checked_loss"][due] >= best)
        halve = oscillates | stuck
        state.update_rows(due, halved=halve, checked_loss=best)
        back = due.clone()
        back[due] = halve
        state.update_rows(
            back,
            step_size=state["step_size"][back] / 2, image=state["best"][back], gradient=state["best_gradient"][back],
        )  # fmt: skip

    def _direction(self, gradient: Tensor) -> Tensor:
        if isinstance(self.ball, Linf):
            return gradient.sign()
        return self.ball.steepest(gradient)


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
