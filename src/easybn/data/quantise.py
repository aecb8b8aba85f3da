"""Tensors from elsewhere as 8-bit images and int64 labels, without loss or with a refusal."""

import torch
from torch import Tensor

from .errors import DataError


def as_pixels(images: Tensor, what: str) -> Tensor:
    """``images`` as uint8 (N, C, H, W): uint8 as they are, floating point only if nothing is lost.

    Args:
        images: uint8, or float32 or float64 in [0, 1] whose values are whole multiples of 1/255.
        what: what an error calls them.

    Raises:
        DataError: anything else.
    """
    if not isinstance(images, Tensor):
        raise DataError(f"{what} must be a tensor, got {type(images).__name__}: torch.from_numpy makes one of an array")
    if images.dim() != 4:
        advice = ": add the channel with images[:, None]" if images.dim() == 3 else ""
        raise DataError(f"{what} must have shape (N, C, H, W), got {tuple(images.shape)}{advice}")
    if images.dtype == torch.uint8:
        return images
    if images.dtype not in (torch.float32, torch.float64):
        advice = "use .to(torch.uint8) if the values are 0 .. 255, .float() if they are 0 .. 1"
        raise DataError(f"{what} must be uint8, or float32 or float64 in [0, 1], got {images.dtype}: {advice}")
    if not images.numel():
        return images.to(torch.uint8)
    low, high = (float(v) for v in images.aminmax())
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        advice = "normalise inside the model, and use .to(torch.uint8) if the values are 0 .. 255"
        raise DataError(f"{what} must be in [0, 1], got {low:g} .. {high:g}: {advice}")
    levels = images.mul(255).round_()
    if float((images - levels / 255).abs().max()) > 1e-6:  # a few roundings of a float32 below 1
        advice = "(images * 255).round().to(torch.uint8) rounds them, if that is meant"
        raise DataError(f"{what} are not whole multiples of 1/255, so 8 bits would lose something: {advice}")
    return levels.to(torch.uint8)


def as_labels(labels: Tensor, what: str) -> Tensor:
    """``labels`` (N,) of any integer type as int64.

    Raises:
        DataError: another shape or type.
    """
    if not isinstance(labels, Tensor):
        raise DataError(f"{what} must be a tensor, got {type(labels).__name__}: use torch.as_tensor")
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise DataError(f"{what} must be whole numbers, got {labels.dtype}: use .long()")
    if labels.dim() != 1:
        advice = ": argmax(1) undoes a one-hot encoding" if labels.dim() == 2 else ""
        raise DataError(f"{what} must have shape (N,), got {tuple(labels.shape)}{advice}")
    return labels.to(torch.int64)
