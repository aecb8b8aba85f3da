"""The balls that bound a perturbation, in pixels of [0, 1]: l-infinity and l2.

A ball has three operations: the steepest direction in its norm, the projection into it, and a random point of it. Every
point returned is also inside [0, 1]. Distances hold up to the rounding of a float32 pixel (6e-8).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..keyed_random import Noise
from .eps import parse_eps

FAR = 200.0
"""Larger than any sensible l2 radius: half the distance of a black and a white image of 224 x 224 pixels is 194."""


class Ball(ABC):
    """The points of [0, 1]^d within ``eps`` of an image in some norm."""

    eps: float | Fraction

    def check_fits(self, shape: Sequence[int]) -> None:  # noqa: B027 - most balls have nothing to refuse
        """ValueError for a radius that reaches every image of ``shape``, (C, H, W) or any other."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """(N, ...) the direction of norm 1 along which a linear function grows fastest."""

    @abstractmethod
    def project(self, point: Tensor, centre: Tensor, times: Tensor | None = None) -> Tensor:
        """(N, ...) ``point`` projected into the ball around ``centre`` and into [0, 1].

        Args:
            point: (N, ...).
            centre: (N, ...).
            times: (N,) how many times eps the radius of each ball is; None for once.
        """

    @abstractmethod
    def random(self, centre: Tensor, noise: Noise) -> Tensor:
        """(N, ...) a uniformly random point of the ball around ``centre``, clamped to [0, 1]."""

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """(N,) float64 distances between points, in this ball's norm."""


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(N,) values reshaped to broadcast over ``like`` (N, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def l2_norm(x: Tensor) -> Tensor:
    """(N,) the Euclidean norms of ``x`` (N, ...), in its type.

    On a CPU torch's own norm adds in a few running sums: of 224 x 224 pixels of one size it is off by 8e-5, so that
    what was scaled by it lies outside its ball. ``sum`` adds pairwise, and is off by 1e-7.
    """
    flat = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))  # squares underflow in 16 bits
    return (flat * flat).sum(1).sqrt().to(x.dtype)


def rounding(shape: Sequence[int]) -> float:
    """How far the distance of two images of ``shape`` may exceed eps because pixels are rounded to float32.

    A pixel rounds by 6e-8 at most, and the roundings of d pixels add up to its square root in l2.
    """
    return 1e-7 * math.sqrt(math.prod(shape))


@dataclass(frozen=True)
class Linf(Ball):
    """No pixel differs by more than eps.

    Args:
        eps: radius in [0, 1] pixel units; a number or a fraction such as 8/255.
    """

    eps: float | Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.eps > 1:
            raise ValueError(f"an l-infinity eps of {self.eps:g} exceeds all of [0, 1]: is it in units of /255?")

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, point: Tensor, centre: Tensor, times: Tensor | None = None) -> Tensor:
        eps = float(self.eps) if times is None else per_sample(float(self.eps) * times, centre).to(centre.dtype)
        return torch.minimum(torch.maximum(point, (centre - eps).clamp_(min=0)), (centre + eps).clamp_(max=1))

    def random(self, centre: Tensor, noise: Noise) -> Tensor:
        offset = noise.uniform(*centre.shape[1:]).mul_(2 * float(self.eps)).sub_(float(self.eps))
        return (centre + offset.to(centre.dtype)).clamp_(0, 1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a.double() - b.double()).flatten(1).abs().amax(1)


@dataclass(frozen=True)
class L2(Ball):
    """The Euclidean distance of the images is at most eps.

    Args:
        eps: radius in [0, 1] pixel units; a number or a fraction.
    """

    eps: float | Fraction

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.eps >= FAR:
            raise ValueError(f"an l2 eps of {self.eps:g} is farther than any attack goes: is it in units of /255?")

    def check_fits(self, shape: Sequence[int]) -> None:
        diameter = math.sqrt(math.prod(shape))
        if float(self.eps) > diameter:
            size = " x ".join(map(str, shape))
            raise ValueError(
                f"an l2 eps of {self.eps:g} exceeds all distances of images of {size}, at most {diameter:.4g}: is it "
                "in units of /255?"
            )

    def steepest(self, gradient: Tensor) -> Tensor:
        # scaled by the largest entry first: the squares of a saturated model's gradient underflow
        largest = gradient.flatten(1).abs().amax(1)
        scaled = gradient / per_sample(largest.where(largest > 0, torch.ones_like(largest)), gradient)
        norm = l2_norm(scaled)
        return scaled / per_sample(norm.clamp(min=1.0), gradient)  # the largest entry is 1, so norm >= 1 or all is 0

    def project(self, point: Tensor, centre: Tensor, times: Tensor | None = None) -> Tensor:
        offset = point - centre
        norm = l2_norm(offset)
        eps = torch.full_like(norm, float(self.eps)) if times is None else (float(self.eps) * times).to(norm.dtype)
        shrink = (eps / norm.maximum(eps)).to(offset.dtype)
        # clamping moves every pixel towards the centre, so the point stays within the ball
        return (centre + offset * per_sample(shrink, offset)).clamp_(0, 1)

    def random(self, centre: Tensor, noise: Noise) -> Tensor:
        direction = noise.child("direction").normal(*centre.shape[1:])
        dimension = max(1, direction[0].numel())
        radius = float(self.eps) * noise.child("radius").uniform() ** (1 / dimension)
        offset = direction * per_sample(radius / l2_norm(direction), direction)
        return (centre + offset.to(centre.dtype)).clamp_(0, 1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a.double() - b.double()).flatten(1).norm(dim=1)
