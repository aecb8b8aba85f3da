"""Augmentations of a batch, drawn from keyed noise: a sample's crop depends only on seed, step and sample id.

The same (seed, step, sample id) gives the same crop in every batch, on every device and after every
restart: ``crop_flip(x, Noise.of(seed, "augment", ids, step))``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..keyed_random import Noise

PAD = 4  # pixels on each side, as is usual for 32 x 32


def none(x: Tensor, noise: Noise) -> Tensor:
    """The batch as it is."""
    return x


def crop_flip(x: Tensor, noise: Noise) -> Tensor:
    """Pad by 4 zeros, crop at random to the original size, and flip left to right with probability 1/2.

    Args:
        x: (N, C, H, W), uint8 or floating point. Zero is black: normalise after this, not before.
        noise: one stream per sample; its child "crop-flip" is used.

    Returns:
        (N, C, H, W) of the same type.
    """
    if len(noise.keys) != len(x):
        raise ValueError(f"every image needs one stream of noise, got {len(x)} images and {len(noise.keys)} streams")
    channels, height, width = x.shape[1:]
    across = 2 * PAD + 1  # offsets that a crop can have along one side
    draw = noise.child("crop-flip").integers(2 * across * across, 1)
    mirrored, top, left = draw % 2 == 1, draw // 2 % across, draw // 2 // across
    column = torch.arange(width, device=x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.where(mirrored, width - 1 - column, column)
    # one gather crops and mirrors: the position of every pixel in the padded image, the same in each channel
    source = (rows[:, :, None] * (width + 2 * PAD) + columns[:, None, :]).flatten(1)
    padded = F.pad(x, (PAD, PAD, PAD, PAD)).flatten(2)
    return padded.gather(2, source[:, None].expand(-1, channels, -1)).view_as(x)


AUGMENTATIONS: dict[str, Callable[[Tensor, Noise], Tensor]] = {"none": none, "crop_flip": crop_flip}
