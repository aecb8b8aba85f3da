"""The 15 common corruptions of Hendrycks and Dietterich at five severities, made for the images of any data set.

Written from the definitions of "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
(ICLR 2019, arXiv:1903.12261) with the constants of its two data sets: those of CIFAR-10-C, for 32 x 32 pixels, for
images whose shorter side is nearer to 32 than to 224 by ratio; those of ImageNet-C for larger ones. As in the
published files the result has 8 bits, truncated.

An image's corruption is a function of (seed, kind, severity, id of the image), to the bit, whichever other images are
in the batch. Two things are not the published ones: the random numbers, and the texture of ``frost``, which is drawn
here where the original blends photographs of frost.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..keyed_random import Noise
from . import corruption_kinds as kinds
from .corruption_kinds import Floats, eight_bits

SEVERITIES = (1, 2, 3, 4, 5)
SMALL = 84
"""The largest shorter side that takes the constants of 32 x 32 pixels: the geometric mean of 32 and 224."""
LEAST_SIDE = 8
GROUPS = ("noise", "blur", "weather", "digital")
_BLOCK = 2**17  # numbers that are worked on at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class Corruption:
    """One of the 15 kinds.

    Args:
        group: one of ``GROUPS``, as in the paper.
        make: from images (N, C, H, W) in [0, 1] of whole multiples of 1 / 255, their noise and the constants of a
            severity to images, which need not be in [0, 1].
        small: constants of each severity at 32 x 32 pixels; large: at 224 x 224.
    """

    group: str
    make: Callable[..., Floats]
    small: Sequence[Any]
    large: Sequence[Any]


_OF_244 = 244 / 224  # ImageNet-C measures the lengths of its elastic transform in sides of 244 pixels

CORRUPTIONS = {
    "gaussian_noise": Corruption(
        "noise", kinds.gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "shot_noise": Corruption("noise", kinds.shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(
        "noise", kinds.impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
    ),
    "defocus_blur": Corruption(
        "blur",
        kinds.defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Corruption(
        "blur",
        kinds.glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Corruption(
        "blur",
        kinds.motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Corruption(
        "blur",
        kinds.zoom_blur,
        ((0.01, 7), (0.01, 12), (0.01, 16), (0.01, 21), (0.01, 26)),
        ((0.01, 12), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11)),
    ),
    "snow": Corruption(
        "weather",
        kinds.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(
        "weather",
        kinds.frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": Corruption(
        "weather",
        kinds.fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Corruption("weather", kinds.brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption("digital", kinds.contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        "digital",
        kinds.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple(
            (most * _OF_244, sigma * _OF_244, corner * _OF_244)
            for most, sigma, corner in (
                (2, 0.7, 0.1),
                (2, 0.08, 0.2),
                (0.05, 0.01, 0.02),
                (0.07, 0.01, 0.02),
                (0.12, 0.01, 0.02),
            )
        ),
    ),
    "pixelate": Corruption("digital", kinds.pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption("digital", kinds.jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
"""The kinds by the names of their published files, in the order of the paper."""


def corrupt(x: Tensor, kind: str, severity: int, *, seed: int = 0, ids: Tensor | None = None) -> Tensor:
    """Corrupt images.

    Args:
        x: grey or RGB images in [0, 1], (N, C, H, W), floating point, at least 8 x 8 pixels; rounded to 8 bits first.
        kind: one of ``CORRUPTIONS``.
        severity: 1 .. 5.
        seed: of all that is random.
        ids: int64 (N,), the images' names in the keys of random numbers; by default 0 .. N - 1.

    Returns:
        Images like ``x``, on its device and of its type, in whole multiples of 1 / 255.

    Raises:
        ValueError: another kind, severity, shape or type.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {kind!r}; known: {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")
    check_shape(tuple(x.shape[1:]))
    if not x.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], got {x.dtype}")
    ids = torch.arange(len(x)) if ids is None else ids.cpu()
    pixels = x.detach().cpu().double().mul(255).round().clamp(0, 255).to(torch.uint8).numpy()
    noise = Noise.of(seed, f"corruptions/{kind}", ids, severity)
    each = CORRUPTIONS[kind]
    constants = (each.small if min(x.shape[2:]) <= SMALL else each.large)[severity - 1]
    constants = constants if isinstance(constants, tuple) else (constants,)
    out = np.empty_like(pixels)
    step = max(1, _BLOCK // max(1, math.prod(pixels.shape[1:])))
    for start in range(0, len(pixels), step):
        rows = slice(start, start + step)
        out[rows] = eight_bits(each.make(pixels[rows] / 255, Noise(noise.keys[rows]), *constants))
    return torch.from_numpy(out).to(x.device).to(x.dtype) / 255


def check_shape(shape: tuple[int, ...]) -> None:
    """ValueError unless images of this shape (C, H, W) can be corrupted."""
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < LEAST_SIDE:
        what = f"grey or RGB images (1 or 3 channels) of at least {LEAST_SIDE} x {LEAST_SIDE} pixels"
        raise ValueError(f"corruptions are defined for {what}, got {' x '.join(map(str, shape)) or 'numbers'}")
