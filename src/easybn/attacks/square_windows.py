"""The windows of the Square attack: how large they are, and where they lie in each row of a batch."""

import math
from functools import cache

import torch
from torch import Tensor

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def share(query: int, p_init: float) -> float:
    """The share p of the image that the window of a query covers; ``query`` counts from 0 (section 3.2)."""
    return p_init / 2 ** sum(query > last for last in HALVED_AFTER)


@cache
def sides(p_init: float, height: int, width: int, linf: bool) -> tuple[int, ...]:
    """Pixels of a side of the square window in each stage of the schedule, 10 whole numbers.

    In l2, whose kernel has a middle, they are odd and at least 3, but for images smaller than that.
    """
    out = []
    for first in (0, *(last + 1 for last in HALVED_AFTER)):
        wanted = round(math.sqrt(share(first, p_init) * height * width))
        wanted = max(wanted, 1) if linf else max(wanted, 3) | 1
        out.append(min(wanted, height, width))
    return tuple(out)


def stages(query: Tensor) -> Tensor:
    """(B,) int64, 0 .. 9: the stage of the schedule for numbers of queries (int64, (B,))."""
    return torch.bucketize(query, whole(HALVED_AFTER, query.device))


@cache
def whole(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as a tensor, made once for each device."""
    return torch.tensor(numbers, device=device)


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """-1 or 1 for each of the random ``bits`` (int64), in the type of ``like``."""
    return (bits < 0).to(like.dtype).mul_(-2).add_(1)


def corners(bits: Tensor, side: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """First rows and first columns of n windows an image, two int64 tensors (B, n).

    They are uniform in [0, size - side), or 0 for a window that fills the axis: as in the reference implementation a
    window never touches the far edge. In a single row of pixels it does, or its last pixel would never be changed.

    Args:
        bits: int64 (B, 2 n), random.
        side: int64 (B,), of the windows.
        like: (B, C, H, W), the images.
    """
    beyond = int(1 in like.shape[2:])
    low = bits.bitwise_and(0xFFFFFFFF).chunk(2, 1)
    top, left = (part * (size - side + beyond)[:, None] >> 32 for part, size in zip(low, like.shape[2:], strict=True))
    return top, left


def windows(top: Tensor, left: Tensor, side: Tensor, like: Tensor) -> Tensor:
    """(B, n, H, W) in the type of ``like`` (B, C, H, W): 1 inside a window, 0 outside it.

    Args:
        top: int64 (B, n), first rows.
        left: int64 (B, n), first columns.
        side: int64 (B,).
    """
    height, width = like.shape[2:]
    return _span(top, side, height, like)[..., None] * _span(left, side, width, like)[..., None, :]


def _span(first: Tensor, side: Tensor, size: int, like: Tensor) -> Tensor:
    at = torch.arange(size, device=first.device) - first[..., None]
    return ((at >= 0) & (at < side[:, None, None])).to(like.dtype)
