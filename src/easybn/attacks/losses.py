"""What attacks increase: functions of the logits in float64 whose gradients do not saturate.

Cross-entropy is useless to an attack on a confident model: its gradient is proportional to 1 - p(true class), which in
float32 is exactly 0 for a margin beyond 17 and underflows altogether beyond 103; then an attack sees no gradient and
the model looks robust. Its *direction* does not depend on that factor, and a step needs the direction alone. So
:func:`log_odds` is a monotone function of cross-entropy whose gradient has no such factor. In the losses of AutoAttack
(Croce & Hein, 2020) ``value`` is what APGD compares and ``ascent`` what it differentiates; for the cross-entropy these
are two functions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) float64: log((1 - p) / p) for the probability p of the true class = log(exp(cross-entropy) - 1).

    The gradient has the direction of cross-entropy's and never vanishes: the sum of its positive parts is 1.

    Args:
        logits: (N, K).
        y: true classes, int64, shape (N,).
    """
    true, others = _split(logits, y)
    return torch.logsumexp(others, 1) - true


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) float64: the largest other logit minus the true one (Carlini & Wagner, 2017, f6 without its kappa).

    Args:
        logits: (N, K).
        y: true classes, int64, shape (N,).
    """
    true, others = _split(logits, y)
    return others.amax(1) - true


def towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(N,) float64: the target's logit minus the true one.

    Args:
        logits: (N, K).
        y: true classes, int64, shape (N,).
        target: other classes, int64, shape (N,).
    """
    wide = logits.double()
    return (wide.gather(1, target[:, None]) - wide.gather(1, y[:, None]))[:, 0]


def _split(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The true class's logit (N,) and all logits with -inf in its place (N, K), float64."""
    wide = logits.double()
    return wide.gather(1, y[:, None])[:, 0], wide.scatter(1, y[:, None], -torch.inf)


class Loss(ABC):
    """A loss that an attack increases; ``y`` and ``target`` are classes, int64 (B,)."""

    def value(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """(B,) float64: the loss."""
        return self.ascent(logits, y, target)

    @abstractmethod
    def ascent(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """(B,) float64: a function whose gradient has the direction of the loss's."""

    def weight(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """(B,) float64: logarithm of the factor from the gradient of ``ascent`` to that of the loss."""
        return torch.zeros(len(logits), dtype=torch.float64, device=logits.device)


class CrossEntropy(Loss):
    """Cross-entropy of the true class, = log(1 + exp(log odds))."""

    def value(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        odds = log_odds(logits, y)
        return odds.clamp(min=0) + torch.log1p(torch.exp(-odds.abs()))

    def ascent(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return log_odds(logits, y)

    def weight(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(log_odds(logits, y))


class DLR(Loss):
    """Difference of logits ratio, -(z_y - max other) / (z_1st - z_3rd) (equation 6).

    With two classes there is no third logit: the numerator alone. Classes masked by -inf do not count.
    """

    def ascent(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        z = logits.double()
        ordered = z.sort(dim=1).values
        rows = torch.arange(len(z), device=z.device)
        other = torch.where(z.argmax(1) == y, ordered[:, -2], ordered[:, -1])
        scale = _scale(ordered, ordered[:, -3]) if z.shape[1] > 2 else 1.0
        return -(z[rows, y] - other) / scale


class TargetedDLR(Loss):
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2) (equation 7).

    With three classes the third logit is taken for the fourth too; with two the loss is the numerator. Classes masked
    by -inf do not count.
    """

    def ascent(self, logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        z = logits.double()
        ordered = z.sort(dim=1).values
        rows = torch.arange(len(z), device=z.device)
        classes = z.shape[1]
        scale: Tensor | float = 1.0
        if classes > 2:
            third, fourth = ordered[:, -3], ordered[:, -min(4, classes)]
            scale = _scale(ordered, 0.5 * (third + torch.where(fourth.isneginf(), third, fourth)))
        return -(z[rows, y] - z[rows, target]) / scale


def _scale(ordered: Tensor, low: Tensor) -> Tensor:
    """(B,) the largest logit minus ``low``; 1 where ``low`` is masked by -inf, since there are but two classes."""
    masked = low.isneginf()
    scale = ordered[:, -1] - low.masked_fill(masked, 0.0) + 1e-12
    return torch.where(masked, torch.ones_like(scale), scale)
