"""The first convolution of a network, whose gradients are as fast as its forward pass also on a CPU."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stem(nn.Conv2d):
    """A square 2-d convolution of one to four input channels, with bias or without: ``nn.Conv2d`` in all but speed.

    The libraries' convolutions are made for many channels. Of a grey image they take the gradient at a
    twentieth of the machine's rate, and an attack needs it in every step. Here it is one matrix product and a
    shifted sum for each of the kernel's positions. The gradient can be differentiated again. Used on a CPU where
    gradients are recorded; elsewhere, under autocast and ``torch.compile`` it is ``nn.Conv2d``.
    """

    computes_as = nn.Conv2d
    """The class with the same function of input, weight and bias (see :func:`easybn.norm.fold.folded`)."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, H', W'), channels last if the input or the weight is."""
        if self._plain(input):
            return super().forward(input)
        out: Tensor = _Convolution.apply(input, self.weight, self.stride[0], int(self.padding[0]))
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def _plain(self, x: Tensor) -> bool:
        square = len({*self.kernel_size}) == len({*self.stride}) == 1 and self.dilation == (1, 1)
        padded = isinstance(self.padding, tuple) and len({*self.padding}) == 1 and self.padding_mode == "zeros"
        ours = x.dim() == 4 and x.device.type == "cpu" and self.in_channels <= 4 and self.groups == 1
        return (
            not (ours and square and padded)
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
        )


class _Convolution(torch.autograd.Function):
    """Without bias; zeros around the image, as many on each side."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        if x.shape[1] == 1 and x.is_contiguous():
            # one channel is both layouts at once: strides that say "channels last" keep the rest of the network so
            h, w = x.shape[2:]
            x = x.as_strided(x.shape, (h * w, 1, w, 1))
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            by_x = _by_input(grad, weight, x, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            by_weight = _by_weight(grad, weight, x, ctx.stride, ctx.padding)
        return by_x, by_weight, None, None


def _by_input(grad: Tensor, weight: Tensor, x: Tensor, stride: int, padding: int) -> Tensor:
    n, out_channels, h, w = grad.shape
    _, channels, k, _ = weight.shape
    columns = grad.permute(0, 2, 3, 1).reshape(-1, out_channels)
    parts = (weight.permute(2, 3, 1, 0).reshape(-1, out_channels) @ columns.t()).view(k * k, channels, n, h, w)
    height, width = x.shape[2:]
    # the last rows and columns may be beyond every position of the kernel
    by_x = grad.new_zeros(channels, n, max(height + 2 * padding, k), max(width + 2 * padding, k))
    for part, (rows, columns_) in zip(parts, _positions(k, stride, h, w), strict=True):
        by_x[:, :, rows, columns_] += part
    return by_x[:, :, padding : padding + height, padding : padding + width].transpose(0, 1)


def _by_weight(grad: Tensor, weight: Tensor, x: Tensor, stride: int, padding: int) -> Tensor:
    out_channels, h, w = grad.shape[1:]
    _, channels, k, _ = weight.shape
    if channels > 1:  # here the library's kernels do well
        shared = ([stride, stride], [padding, padding], [1, 1], False, [0, 0], 1)
        found: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, None, *shared, [False, True, False])[1]
        return found
    padded = F.pad(x.transpose(0, 1), [padding] * 4)
    seen = torch.stack([padded[:, :, rows, columns] for rows, columns in _positions(k, stride, h, w)])
    products = seen.reshape(k * k * channels, -1) @ grad.permute(0, 2, 3, 1).reshape(-1, out_channels)
    return products.view(k, k, channels, out_channels).permute(3, 2, 0, 1)


def _positions(k: int, stride: int, h: int, w: int) -> Iterator[tuple[slice, slice]]:
    """For each position in a (k, k) kernel, row by row: what it meets of a padded image on its way to (h, w) places."""
    for i in range(k):
        for j in range(k):
            yield slice(i, i + stride * (h - 1) + 1, stride), slice(j, j + stride * (w - 1) + 1, stride)
