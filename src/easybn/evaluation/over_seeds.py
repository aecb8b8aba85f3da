"""Mean over seeds with its 95% interval, and the paired test of a difference (Student, 1908)."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import mean, stdev
from typing import NamedTuple


class OverSeeds(NamedTuple):
    """A mean and half the width of its interval, which is None for a single seed."""

    mean: float
    half_width: float | None
    seeds: int


def over_seeds(values: Sequence[float], confidence: float = 0.95, resolution: float = 0.0) -> OverSeeds:
    """The mean of ``values``, one a seed, and the interval for the mean of all seeds: t s / sqrt(n).

    It speaks of the training's randomness, not of the test images drawn, and takes the values as normal: near 0 and
    1 it may reach beyond what an accuracy can be.

    Args:
        values: at least one.
        confidence: in (0, 1).
        resolution: values are whole multiples of it, such as 1 / n for an accuracy on n points. s is taken to be at
            least what rounding alone makes of it, resolution / sqrt(12): a few seeds with the same count do not mean
            that there is no spread.

    Raises:
        ValueError: no values, or a confidence out of (0, 1).
    """
    if not values or not 0 < confidence < 1:
        raise ValueError(f"at least one value and a confidence in (0, 1), got {len(values)} and {confidence}")
    n = len(values)
    half = None if n == 1 else t_quantile(n - 1, confidence) * _spread(values, resolution) / math.sqrt(n)
    return OverSeeds(mean(values), half, n)


@cache
def t_quantile(freedom: int, confidence: float) -> float:
    """t with P(\\|T\\| <= t) = confidence, for T of Student's distribution with ``freedom`` degrees, a whole number."""
    low, high = 0.0, 1.0
    while within(high, freedom) < confidence:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if within(middle, freedom) < confidence else (low, middle)
    return high


class PairedT(NamedTuple):
    """A mean difference, half the width of its 95% interval and the two-sided p; both are None where unknown."""

    mean: float
    half_width: float | None
    p: float | None
    seeds: int


def paired_t(differences: Sequence[float], resolution: float = 0.0) -> PairedT:
    """The paired t test of ``differences``, one a seed, against a mean of zero (Student, 1908).

    One difference says nothing of how far others would lie from it: half width and p are None. So do several that
    are all the same, unless their ``resolution`` is given.

    Args:
        differences: at least one.
        resolution: of the two values that each is the difference of, see :func:`over_seeds`.

    Raises:
        ValueError: no differences.
    """
    found = over_seeds(differences, resolution=math.sqrt(2) * resolution)
    if found.seeds == 1 or not (spread := _spread(differences, math.sqrt(2) * resolution)):
        return PairedT(found.mean, None, None, found.seeds)
    t = abs(found.mean) * math.sqrt(found.seeds) / spread
    return PairedT(found.mean, found.half_width, max(0.0, 1 - within(t, found.seeds - 1)), found.seeds)


def _spread(values: Sequence[float], resolution: float) -> float:
    """Standard deviation; of values that differ by rounding errors alone none but that of their resolution."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return max(spread if spread > 1e-12 * max(map(abs, values)) else 0.0, resolution / math.sqrt(12))


def within(t: float, freedom: int) -> float:
    """P(\\|T\\| <= t) by the finite sums of Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    term, total = (math.cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if freedom % 2 else total
