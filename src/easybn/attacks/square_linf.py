"""The images that the Square attack looks at in l-infinity: stripes, and squares of one sign each (section 3.3)."""

import torch
from torch import Tensor

from ..keyed_random import Noise
from .square_windows import corners, signs, whole, windows


def stripes(centre: Tensor, eps: float, noise: Noise) -> Tensor:
    """(B, C, H, W) the first image: vertical stripes one pixel wide of -eps or eps, for each channel its own."""
    rows, channels, _, width = centre.shape
    sign = signs(noise.bits(channels * width), centre).view(rows, channels, 1, width)
    return (centre + eps * sign).clamp_(0, 1)


def flipped(best: Tensor, centre: Tensor, eps: float, sides: tuple[int, ...], stage: Tensor, noise: Noise) -> Tensor:
    """(B, C, H, W) ``best`` with one sign of the perturbation in a window, for each channel its own (algorithm 2).

    Args:
        best: (B, C, H, W) the best image so far.
        centre: the original one.
        eps: of the ball.
        sides: pixels of a side of the window in each stage of the schedule.
        stage: int64 (B,), which stage.
        noise: of this query.
    """
    side = whole(sides, best.device)[stage]
    bits = noise.bits(2 + best.shape[1])
    window = windows(*corners(bits[:, :2], side, best), side, best)
    # twice eps crosses the ball from wherever the pixel is
    point = torch.addcmul(best, signs(bits[:, 2:], best)[:, :, None, None] * (2 * eps), window)
    bound = centre - eps
    torch.maximum(point, bound, out=point)
    torch.minimum(point, torch.add(centre, eps, out=bound), out=point)
    return point.clamp_(0, 1)
