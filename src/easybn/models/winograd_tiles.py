"""The constant matrices of Winograd's F(4x4, 3x3), and the ways between images and coordinates of their tiles.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.3.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# equations 3 and 4 of section 4.3: output = A' ((G weight G') * (B' tile B)) A, here as the three transposes
TILE = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
WEIGHT = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def tiled(pixels: int) -> int:
    """How many tiles it takes to make so many pixels of output, four at a time."""
    return -(-pixels // 4)


def squared(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The matrix that transforms both axes of a tile, flattened: a Kronecker product."""
    matrix = torch.tensor(rows, dtype=torch.float64, device=like.device)
    return torch.kron(matrix, matrix).to(like.dtype)


def to_tiles(x: Tensor, padding: int) -> Tensor:
    """Images (N, C, H, W) to coordinates of their 6x6 tiles, four pixels apart: (36, tiles, C)."""
    channels, *size = x.shape[1:]
    (top, bottom), (left, right) = ((padding, 4 * tiled(s + 2 * padding - 2) + 2 - s - padding) for s in size)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom))
    tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
    return (squared(TILE, x) @ tiles).view(36, -1, channels)


def to_weights(weight: Tensor) -> Callable[[slice], Tensor]:
    """(out, in, 3, 3) to a part of the 36 coordinates, (n, out, in)."""
    matrix, flat = squared(WEIGHT, weight), weight.permute(2, 3, 0, 1).reshape(9, -1)
    return lambda at: (matrix[at] @ flat).view(-1, *weight.shape[:2])


def to_products(grad: Tensor) -> Tensor:
    """The gradient (N, out, H', W') by the 36 products: (36, tiles, out)."""
    channels, h, w = grad.shape[1:]
    whole = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, -w % 4, 0, -h % 4))
    pixels = whole.unfold(1, 4, 4).unfold(2, 4, 4).permute(4, 5, 0, 1, 2, 3).reshape(16, -1)
    return (squared(OUTPUT, grad).t() @ pixels).view(36, -1, channels)


def to_input(by_tiles: Tensor, shape: torch.Size, padding: int) -> Tensor:
    """The gradient by transformed tiles (36, tiles, C) to that by the images, (N, H, W, C).

    Each tile has two pixels of the next.
    """
    n, channels, *size = shape
    down, across = (tiled(s + 2 * padding - 2) for s in size)
    pixels = (squared(TILE, by_tiles).t() @ by_tiles.reshape(36, -1)).view(6, 6, n, down, across, channels)
    pixels = pixels.permute(2, 3, 0, 4, 1, 5)  # (N, down, 6, across, 6, C)
    whole = pixels.new_zeros(n, down + 1, 4, across + 1, 4, channels)
    whole[:, :-1, :, :-1] = pixels[:, :, :4, :, :4]
    whole[:, 1:, :2, :-1] += pixels[:, :, 4:, :, :4]
    whole[:, :-1, :, 1:, :2] += pixels[:, :, :4, :, 4:]
    whole[:, 1:, :2, 1:, :2] += pixels[:, :, 4:, :, 4:]
    images = whole.reshape(n, 4 * down + 4, 4 * across + 4, channels)
    return images[:, padding : padding + size[0], padding : padding + size[1]]
