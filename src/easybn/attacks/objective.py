"""What a strong attack increases: two losses of the logits that do not saturate, in float64.

Cross-entropy is useless to an attack on a confident model: its gradient is proportional to 1 - p(true
class), which in float32 is exactly 0 for a margin beyond 17 and underflows altogether beyond 103. Its
*direction* does not depend on that factor, and a steepest step needs the direction alone. So
:func:`log_odds` takes a monotone function of cross-entropy whose gradient has no such factor.
"""

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


def _split(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The true class's logit (N,) and all logits but for it (N, K), float64; minus infinity stands in its place."""
    wide = logits.double()
    return wide.gather(1, y[:, None])[:, 0], wide.scatter(1, y[:, None], -torch.inf)
