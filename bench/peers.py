"""What we are compared with, run as it comes, and the two clocks that are read."""

import copy
import math
import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from torch import Tensor, nn
from usual import by_torch

BALLS = {"linf": "Linf", "l2": "L2"}


class Spent(NamedTuple):
    """Seconds on the clock, and of the processor: the second hardly depends on what else the machine does."""

    wall: float
    processor: float

    @classmethod
    def since(cls, began: "Spent") -> "Spent":
        return cls(*(now - then for now, then in zip(cls.now(), began, strict=True)))

    @classmethod
    def now(cls) -> "Spent":
        return cls(time.perf_counter(), time.process_time())


@dataclass(frozen=True)
class Short:
    """AutoAttack's four attacks with fewer iterations, queries and targets."""

    iterations: int
    targets: int
    queries: int


def reference(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, seed: int = 0, short: Short | None = None
) -> tuple[Tensor, Spent]:
    """The reference's standard AutoAttack, or a shortened one: which points are robust, and what that took."""
    model = by_torch(copy.deepcopy(model))
    began = Spent.now()
    attack = AutoAttack(model, norm=BALLS[norm], eps=eps, seed=seed)
    if short:
        _shorten(attack, short)
    adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=256)
    seconds = Spent.since(began)
    with torch.no_grad():
        return model(adversarial).argmax(1) == y, seconds


def _shorten(attack: AutoAttack, short: Short) -> None:
    for apgd in (attack.apgd, attack.apgd_targeted):
        apgd.n_iter = short.iterations
        # derived from the number of iterations when the object was made
        apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (
            max(int(share * short.iterations), 1) for share in (0.22, 0.06, 0.03)
        )
    attack.fab.n_iter, attack.square.n_queries = short.iterations, short.queries
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = short.targets


def robustness(model: nn.Module, x0: Tensor, y: Tensor, eps: float, steps: int = 100, batch: int = 256) -> Tensor:
    """The library ``robustness``: PGD in l2 as its text says; which points are robust."""
    model, robust = by_torch(copy.deepcopy(model)), []
    for centre, label in zip(x0.split(batch), y.split(batch), strict=True):
        x, best, best_loss = centre.clone(), centre.clone(), torch.full((len(label),), -math.inf)
        for step in range(steps + 1):
            x = x.detach().requires_grad_()
            losses = F.cross_entropy(model(x), label, reduction="none")
            better = losses.detach() > best_loss
            best[better], best_loss[better] = x.detach()[better], losses.detach()[better]
            if step == steps:
                break
            (g,) = torch.autograd.grad(losses.mean(), x)
            norm = g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            moved = x.detach() + 2.5 * eps / steps * g / (norm + 1e-10)
            x = (centre + (moved - centre).renorm(p=2, dim=0, maxnorm=eps)).clamp(0, 1)
        with torch.no_grad():
            robust.append(model(best).argmax(1) == label)
    return torch.cat(robust)
