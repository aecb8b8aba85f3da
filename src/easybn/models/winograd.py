"""3x3 convolutions of many channels by Winograd's minimal filtering: a quarter of the multiplications.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), F(4x4, 3x3): tiles of 6x6 pixels are taken
to 36 coordinates in which the convolution is a product of 36 pairs of matrices, and those back to 4x4 pixels, all by
constant matrices. The libraries do so on processors with AVX-512, if at all, and not for gradients.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .winograd_tiles import OUTPUT, WEIGHT, squared, tiled, to_input, to_products, to_tiles, to_weights

CHANNELS = 96
"""From so many channels on, in and out, it pays: below, the way there and back costs more than it saves."""
TILES = 48
"""From so many tiles on, in a batch, the transform of the weights pays."""
KEPT_TILES = 8
"""If that is kept: below, the weights are read from memory for too few products."""
MOST_TILES = 512
"""At a time: more save no more, and take memory."""
PARTS = [slice(first, first + 6) for first in range(0, 36, 6)]
"""Of the 36 coordinates: transformed weights take four times the memory of the weights, and are not needed at once."""


class Winograd(nn.Conv2d):
    """A 3x3 convolution with stride 1: ``nn.Conv2d`` in all but speed and the last digits (relative error 3e-6).

    Forward pass and both gradients together take 0.4 to 0.6 of the time at 128 to 512 channels. The gradients can
    be differentiated again. Used on a CPU for batches that are large enough; elsewhere, under autocast and
    ``torch.compile`` it is ``nn.Conv2d``.
    """

    computes_as = nn.Conv2d
    """The class with the same function of input, weight and bias (see :func:`easybn.norm.fold.folded`)."""

    kept: Tensor | None = None
    """(36, out_channels, in_channels): the transformed weight, after :meth:`keep`."""

    def keep(self) -> None:
        """Transform the weight once for all, so that small batches are faster too: for a model that stays as it is.

        It takes four times the memory of the weight. What becomes of the weight later does not count.
        """
        weights = to_weights(self.weight.detach())
        self.kept = torch.cat([weights(at) for at in PARTS])

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, H', W')."""
        images = self._at_once(input) if fits(self) else 0
        if not images:
            return super().forward(input)
        out: Tensor = _Convolution.apply(input, self.weight, self.kept, int(self.padding[0]), images)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def _at_once(self, x: Tensor) -> int:
        """How many images to compute at a time, as equal in number as can be; 0 if it does not pay."""
        if x.dim() != 4 or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return 0
        h, w = (size + 2 * int(self.padding[0]) - 2 for size in x.shape[2:])
        tiles = tiled(h) * tiled(w) if h > 0 and w > 0 else 0
        filled = min(self.in_channels, self.out_channels) * h * w >= CHANNELS * 16 * tiles  # the last ones stand out
        if (
            not filled
            or len(x) == 1
            or len(x) * tiles < (TILES if self.kept is None else KEPT_TILES)
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
        ):
            return 0
        return -(-len(x) // -(-len(x) * tiles // MOST_TILES))


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
    """Without bias; zeros around the image, as many on each side; with the transformed weight, if there is one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, kept: Tensor | None, padding: int, images: int) -> Tensor:
        h, w = (size + 2 * padding - 2 for size in x.shape[2:])
        weights, out = to_weights(weight) if kept is None else kept.__getitem__, None
        for first in range(0, len(x), images):
            some = slice(first, first + images)
            transformed = to_tiles(x[some], padding)
            products = torch.cat([torch.bmm(transformed[at], weights(at).transpose(1, 2)) for at in PARTS])
            pixels = (squared(OUTPUT, products) @ products.flatten(1)).view(4, 4, -1, tiled(h), tiled(w), len(weight))
            if out is None:
                out = pixels.new_empty(len(x), h, w, len(weight))
            out[some] = pixels.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)[:, :h, :w]
        assert out is not None  # there are images, or it would not pay
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, weight, kept, ctx.padding, ctx.images = inputs
        ctx.save_for_backward(x, weight, kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, kept = ctx.saved_tensors
        weights = to_weights(weight) if kept is None else kept.__getitem__
        matrix = squared(WEIGHT, grad).t()
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            by_x = grad.new_empty(len(x), *x.shape[2:], x.shape[1])
        for first in range(0, len(x), ctx.images):
            some = slice(first, first + ctx.images)
            by_products = to_products(grad[some])
            if by_x is not None:
                by_tiles = torch.cat([torch.bmm(by_products[at], weights(at)) for at in PARTS])
                by_x[some] = to_input(by_tiles, x[some].shape, ctx.padding)
                del by_tiles
                if some.stop >= len(x):
                    del weights  # of 512 channels they take as much memory as a layer's activations
            if ctx.needs_input_grad[1]:
                # the tiles are made again and not kept: they take 2.25 times the memory of the images
                transformed = to_tiles(x[some], ctx.padding)
                for at in PARTS:
                    part = torch.bmm(by_products[at].transpose(1, 2), transformed[at]).reshape(6, -1)
                    by_weight = matrix[:, at] @ part if by_weight is None else by_weight.addmm_(matrix[:, at], part)
        if by_x is not None:
            by_x = by_x.permute(0, 3, 1, 2)
        if by_weight is not None:
            by_weight = by_weight.view(3, 3, *weight.shape[:2]).permute(2, 3, 0, 1)
        return by_x, by_weight, None, None, None
