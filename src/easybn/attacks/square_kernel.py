"""The kernel that the Square attack adds in l2: two hills of opposite sign side by side (equation 2 of the paper)."""

from functools import cache

import torch
from torch import Tensor


def kernel(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2, side, side) of l2 norm 1: positive above and negative below; and the same turned, left and right."""
    hills = torch.cat((_hill(side // 2, side), -_hill(side - side // 2, side)))
    hills /= hills.norm()
    return torch.stack((hills, hills.T)).to(device, dtype)


def _hill(height: int, width: int) -> Tensor:
    """(height, width) float64 of l2 norm 1: concentric squares around the middle, the k-th adding 1 / k^2 within it."""
    rings = max(height // 2, width // 2) + 1
    within = torch.arange(1, rings + 1, dtype=torch.float64).pow(-2).flip(0).cumsum(0).flip(0)
    y, x = (torch.arange(size).sub(size // 2).abs() for size in (height, width))
    hill = within[torch.maximum(y[:, None], x)]
    return hill / hill.norm() if hill.numel() else hill


def planes(sides: tuple[int, ...], stage: Tensor, turned: Tensor, top: Tensor, left: Tensor, like: Tensor) -> Tensor:
    """(B, 1, H, W) in the type of ``like`` (B, C, H, W): each row's kernel where its window is, 0 elsewhere.

    Args:
        sides: of the window in each stage.
        stage: int64 (B,).
        turned: bool (B,), which of the two kernels.
        top: int64 (B,), first row of the window.
        left: int64 (B,), its first column.
    """
    height, width = like.shape[2:]
    table, rows = _framed(sides, width, like.dtype, like.device)
    y = (torch.arange(1, height + 1, device=top.device) - top[:, None]).clamp_(0, rows - 1)
    y += (2 * stage + turned)[:, None] * rows
    # whole rows of an image are copied: that is much faster than a gather of pixels
    return table[y, (width - left)[:, None]][:, None]


@cache
def _framed(sides: tuple[int, ...], width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """Both kernels of every stage, one after the other, with zeros around them, so that any image fits in.

    Returns:
        A view (rows, starts, width): ``[row, width - left]`` is a row of an image whose window begins at ``left``. And
        the number of rows of a kernel with its frame.
    """
    most = max(sides)
    table = torch.zeros(len(sides), 2, most + 2, width + most + width, dtype=dtype, device=device)
    for i, side in enumerate(sides):
        table[i, :, 1 : side + 1, width : width + side] = kernel(side, dtype, device)
    return table.flatten(0, 2).unfold(1, width, 1), most + 2
