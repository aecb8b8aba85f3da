"""When an attacked image counts as adversarial."""

import math

import torch
from torch import Tensor

from ..perturb.ball import Ball

# Kernels round differently for batches of other sizes; a margin within this many units of rounding of the
# largest logit could change sign in the next forward pass.
ROUNDING_UNITS = 32


def fooled(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which images are misclassified, and which of these by more than rounding could explain.

    Logits that say nothing (:func:`unanswered`) are misclassified: a model that breaks down on an image is not
    robust there. The reference implementation counts the class of the first NaN.

    Args:
        logits: (N, K), floating point.
        y: true classes, int64, shape (N,).

    Returns:
        Two bool tensors (N,), the second implying the first.
    """
    silent = unanswered(logits)
    wrong = (logits.argmax(1) != y) | silent
    unit = torch.finfo(logits.dtype).eps
    true = logits.gather(1, y[:, None])[:, 0]
    size = logits.abs()
    # a class that is masked by -inf has no rounding
    tolerance = ROUNDING_UNITS * unit * size.where(size.isfinite(), torch.zeros_like(size)).amax(1)
    return wrong, wrong & (silent | (logits.amax(1) - true > tolerance))


def unanswered(logits: Tensor) -> Tensor:
    """bool (N,): logits (N, K) that say nothing: NaN or +inf is among them, or all are -inf."""
    return ~logits.amax(1).isfinite()


def check_within(ball: Ball, images: Tensor, centre: Tensor) -> Tensor:
    """(N,) float64 distances of ``images`` from ``centre`` (both (N, ...)), once they are known to be allowed.

    Raises:
        RuntimeError: an image outside the ball or outside [0, 1]: a fault of an attack, whose verdicts are void.
    """
    distance = ball.distance(images, centre)
    if not len(images):
        return distance
    # a pixel of float32 rounds by 6e-8 at most, and the roundings of d pixels add up to its square root in l2
    slack = 1e-7 * math.sqrt(images[0].numel())
    low, high = (float(v) for v in images.aminmax())
    farthest = float(distance.max())
    if not (low >= 0 and high <= 1 and farthest <= float(ball.eps) + slack):
        raise RuntimeError(
            f"an attack left its ball: distance {farthest:g} for eps {float(ball.eps):g}, pixels {low:g} .. {high:g}"
        )
    return distance
