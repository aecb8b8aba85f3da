"""The 95% interval of an accuracy measured on n points."""

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """Two accuracies in [0, 1] between which the true one lies."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the two: the number after the plus-minus sign."""
        return (self.high - self.low) / 2


def accuracy_interval(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """The score interval of a proportion (Wilson, JASA 1927).

    It stays inside [0, 1] and keeps its width at 0% and 100%, where the textbook interval shrinks to nothing.

    Args:
        correct: number of points classified correctly, in 0 .. n.
        n: number of points, at least 1.
        confidence: probability that the interval covers the true accuracy, in (0, 1).

    Raises:
        ValueError: counts or a confidence out of range.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"correct must be in 0 .. n and n at least 1, got {correct} of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = correct / n
    shrink = 1 / (1 + z * z / n)
    centre = (p + z * z / (2 * n)) * shrink
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) * shrink
    # the ends at 0% and 100% are exact on paper and not in floating point
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return Interval(low, high)
