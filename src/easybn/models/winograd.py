"""3x3 convolutions of many channels by Winograd's minimal filtering: a quarter of the multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4x4, 3x3): tiles of 6x6 pixels are taken
to 36 coordinates in which the convolution is a product of 36 pairs of matrices, and those back to 4x4 pixels, all by
constant matrices. The libraries do so on processors with AVX-512, if at all, and not for gradients.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# equations 3 and 4 of section 4.3: output = A' ((G weight G') * (B' tile B)) A, here as the three transposes
_TILE = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
_WEIGHT = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))

CHANNELS = 96
"""From so many channels on, in and out, it pays: below, the way there and back costs more than it saves."""
TILES = 48
"""From so many tiles on, in a batch, the transform of the weights pays."""


class Winograd(nn.Conv2d):
    """A 3x3 convolution with stride 1: ``nn.Conv2d`` in all but speed and the last digits (relative error 3e-6).

    Forward pass and both gradients together take 0.4 to 0.6 of the time at 128 to 512 channels. The gradients can
    be differentiated again. Used on a CPU for batches that are large enough; elsewhere, under autocast and
    ``torch.compile`` it is ``nn.Conv2d``.
    """

    computes_as = nn.Conv2d
    """The class with the same function of input, weight and bias (see :func:`easybn.norm.fold.folded`)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, H', W')."""
        if not fits(self) or not self._pays(input):
            return super().forward(input)
        padding = int(self.padding[0])
        out: Tensor = _Convolution.apply(input, self.weight, padding)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def _pays(self, x: Tensor) -> bool:
        if x.dim() != 4 or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return False
        h, w = (size + 2 * int(self.padding[0]) - 2 for size in x.shape[2:])
        tiles = max(0, -(-h // 4)) * max(0, -(-w // 4))
        filled = min(self.in_channels, self.out_channels) * h * w >= CHANNELS * 16 * tiles  # the last ones stand out
        many = len(x) * tiles >= TILES
        return filled and many and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def fits(layer: nn.Conv2d) -> bool:
    """Whether ``layer`` is a convolution that can be computed so, and has the channels for it to pay."""
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding in ((0, 0), (1, 1), (2, 2))
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= CHANNELS
    )


class _Convolution(torch.autograd.Function):
    """Without bias; zeros around the image, as many on each side."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, padding: int) -> Tensor:
        h, w = (size + 2 * padding - 2 for size in x.shape[2:])
        products = torch.bmm(_tiles(x, padding), _weights(weight).transpose(1, 2))
        tiles = len(x), -(-h // 4), -(-w // 4)
        pixels = (_squared(_OUTPUT, products) @ products.flatten(1)).view(4, 4, *tiles, -1)
        whole = pixels.permute(2, 3, 0, 4, 1, 5).reshape(len(x), 4 * tiles[1], 4 * tiles[2], -1)
        return whole[:, :h, :w].contiguous().permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, weight, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_products = _by_products(grad)
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            by_x = _by_input(torch.bmm(by_products, _weights(weight)), x.shape, ctx.padding)
        if ctx.needs_input_grad[1]:
            # the tiles are made again and not kept: they take 2.25 times the memory of the images
            by_transformed = torch.bmm(by_products.transpose(1, 2), _tiles(x, ctx.padding))
            found = _squared(_WEIGHT, grad).t() @ by_transformed.flatten(1)
            by_weight = found.view(3, 3, *by_transformed.shape[1:]).permute(2, 3, 0, 1)
        return by_x, by_weight, None


def _squared(rows: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The matrix that transforms both axes of a tile, flattened: a Kronecker product."""
    matrix = torch.tensor(rows, dtype=torch.float64, device=like.device)
    return torch.kron(matrix, matrix).to(like.dtype)


def _tiles(x: Tensor, padding: int) -> Tensor:
    """Images (N, C, H, W) to coordinates of their 6x6 tiles, four pixels apart: (36, tiles, C)."""
    channels, *size = x.shape[1:]
    (top, bottom), (left, right) = ((padding, -(-(s + 2 * padding - 2) // 4) * 4 + 2 - s - padding) for s in size)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom))
    tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
    return (_squared(_TILE, x) @ tiles).view(36, -1, channels)


def _weights(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) to (36, out, in)."""
    return (_squared(_WEIGHT, weight) @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36, *weight.shape[:2])


def _by_products(grad: Tensor) -> Tensor:
    """The gradient (N, out, H', W') by the 36 products: (36, tiles, out)."""
    channels, h, w = grad.shape[1:]
    whole = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, -w % 4, 0, -h % 4))
    pixels = whole.unfold(1, 4, 4).unfold(2, 4, 4).permute(4, 5, 0, 1, 2, 3).reshape(16, -1)
    return (_squared(_OUTPUT, grad).t() @ pixels).view(36, -1, channels)


def _by_input(by_tiles: Tensor, shape: torch.Size, padding: int) -> Tensor:
    """The gradient by transformed tiles (36, tiles, C) to that by the images: each tile has two pixels of the next."""
    n, channels, *size = shape
    down, across = (-(-(s + 2 * padding - 2) // 4) for s in size)
    pixels = (_squared(_TILE, by_tiles).t() @ by_tiles.flatten(1)).view(6, 6, n, down, across, channels)
    pixels = pixels.permute(2, 3, 0, 4, 1, 5)  # (N, down, 6, across, 6, C)
    whole = pixels.new_zeros(n, down + 1, 4, across + 1, 4, channels)
    whole[:, :-1, :, :-1] = pixels[:, :, :4, :, :4]
    whole[:, 1:, :2, :-1] += pixels[:, :, 4:, :, :4]
    whole[:, :-1, :, 1:, :2] += pixels[:, :, :4, :, 4:]
    whole[:, 1:, :2, 1:, :2] += pixels[:, :, 4:, :, 4:]
    images = whole.reshape(n, 4 * down + 4, 4 * across + 4, channels)
    inner = images[:, padding : padding + size[0], padding : padding + size[1]]
    return inner.contiguous().permute(0, 3, 1, 2)
