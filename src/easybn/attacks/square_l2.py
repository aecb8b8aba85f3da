"""The images that the Square attack looks at in l2: a tiling, and mass moved between two windows (section 3.4)."""

import torch
from torch import Tensor

from ..keyed_random import Noise
from .square_kernel import kernel, planes
from .square_windows import corners, signs, whole, windows

TINY = 1e-12
TILES = 5  # a side


def tiles(centre: Tensor, eps: float, noise: Noise) -> Tensor:
    """(B, C, H, W) the first image: 5 x 5 kernels side by side, each turned and, for each channel, signed at random.

    Placed as in the reference implementation wherever that works: what it would put beyond the edge is cut off, and
    sides of less than 5 pixels have tiles of a pixel each.
    """
    rows, channels, height, width = centre.shape
    short = min(height, width)
    side = max(short // TILES, 1)
    first = max(short - side * TILES, 0) // 2
    down, across = height // side, width // side
    bits = noise.bits(down * across * (1 + channels)).view(rows, 1 + channels, down, across)
    # each pixel's tile, and where in the tile it is; pixels before the first and after the last tile are in none
    y, x = (torch.arange(size, device=centre.device) - first for size in (height, width))
    i, j = (y // side).clamp(0, down - 1)[:, None], (x // side).clamp(0, across - 1)
    flat, turned = kernel(side, centre.dtype, centre.device)[:, y[:, None] % side, x % side]
    covered = ((y >= 0) & (y < down * side))[:, None] & (x >= 0) & (x < across * side)
    pattern = torch.where((bits[:, :1] < 0)[:, :, i, j], turned, flat) * signs(bits[:, 1:], centre)[:, :, i, j]
    return _scaled(pattern * covered, centre, eps)


def displaced(best: Tensor, centre: Tensor, eps: float, sides: tuple[int, ...], stage: Tensor, noise: Noise) -> Tensor:
    """(B, C, H, W) ``best`` with the perturbation of one window spent in another one (algorithm 3).

    There a kernel is added to what the window has, and it all is scaled to what was in the two windows and what the
    image had not used of ``eps``.

    Args:
        best: (B, C, H, W) the best image so far.
        centre: the original one.
        eps: of the ball.
        sides: pixels of a side of the windows in each stage of the schedule.
        stage: int64 (B,), which stage.
        noise: of this query.
    """
    channels = best.shape[1]
    side = whole(sides, best.device)[stage]
    bits = noise.bits(5 + channels)
    top, left = corners(bits[:, :4], side, best)
    both = windows(top, left, side, best)
    gaining, losing = both[:, :1], both[:, 1:]
    added = planes(sides, stage, bits[:, 4] < 0, top[:, 0], left[:, 0], best)

    rest = best - centre
    unused = (eps**2 - _norm(rest, (1, 2, 3)) ** 2).clamp_(min=0)
    new = rest * torch.maximum(gaining, losing)
    rest -= new
    budget = (unused / channels + _norm(new, (2, 3)) ** 2).sqrt_()
    new *= gaining
    new /= _norm(new, (2, 3)) + TINY
    new.addcmul_(added, signs(bits[:, 5:], best)[:, :, None, None])
    return _scaled(rest.addcmul_(new, budget / (_norm(new, (2, 3)) + TINY)), centre, eps)


def _scaled(delta: Tensor, centre: Tensor, eps: float) -> Tensor:
    """The image at distance ``eps`` in the direction of ``delta`` (overwritten), but for pixels that leave [0, 1]."""
    return delta.mul_(eps / (_norm(delta, (1, 2, 3)) + TINY)).add_(centre).clamp_(0, 1)


def _norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True)
