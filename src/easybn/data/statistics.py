"""Mean and standard deviation of each channel."""

import torch
from torch import Tensor


def histogram(images: Tensor) -> Tensor:
    """(C, 256) int64: how often each channel of ``images`` (uint8, (N, C, H, W)) takes each value.

    Histograms of parts of a data set add up to that of the whole, exactly.
    """
    count = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for start in range(0, len(images), 4096):  # images may be larger than memory
        part = images[start : start + 4096]
        for channel in range(images.shape[1]):
            values = part[:, channel].reshape(-1).cpu()
            count[channel] += torch.bincount(values, minlength=256)
    return count


def from_histogram(count: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel in [0, 1] units, of a (C, 256) histogram; std is the population's."""
    value = torch.arange(256, dtype=torch.float64) / 255
    weight = count.double() / count.sum(1, keepdim=True).clamp(min=1)
    mean = (weight * value).sum(1)
    std = (weight * (value - mean[:, None]) ** 2).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel of ``images`` (uint8, (N, C, H, W)), in [0, 1] units."""
    return from_histogram(histogram(images))
