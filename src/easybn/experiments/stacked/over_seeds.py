"""Mean over seeds and the 95% interval of that mean (Student, 1908)."""

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


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> OverSeeds:
    """The mean of ``values``, one a seed, and the interval for the mean of all seeds: t s / sqrt(n).

    It speaks of the training's randomness, not of the test images drawn, and takes the values as normal: near 0 and
    1 it may reach beyond what an accuracy can be.

    Raises:
        ValueError: no values, or a confidence out of (0, 1).
    """
    if not values or not 0 < confidence < 1:
        raise ValueError(f"at least one value and a confidence in (0, 1), got {len(values)} and {confidence}")
    n = len(values)
    half = None if n == 1 else t_quantile(n - 1, confidence) * stdev(values) / math.sqrt(n)
    return OverSeeds(mean(values), half, n)


@cache
def t_quantile(freedom: int, confidence: float) -> float:
    """t with P(\\|T\\| <= t) = confidence, for T of Student's distribution with ``freedom`` degrees, a whole number."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(\\|T\\| <= t) by the finite sums of Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    term, total = (math.cos(angle), 0.0) if freedom % 2 else (1.0, 0.0)
    for k in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= k / (k + 1) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if freedom % 2 else total
