"""How far two choices among the same samples agree, and how far chance alone would make them."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, mean, stdev
from typing import NamedTuple

from torch import Tensor

# The 95% interval of an accuracy measured on n points.


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


# Mean over seeds with its 95% interval, and the paired test of a difference (Student, 1908).


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


# Two classifiers on the same points: the exact test of McNemar (Psychometrika, 1947).

SIGNIFICANT = 0.001
"""Bound of p in the diagnosis: it makes a dozen comparisons, and a false alarm costs trust."""


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided p that points which only one of two classifiers gets right fall so unevenly by chance.

    Args:
        first_only: number of points that only the first gets right; second_only: that only the second does.

    Raises:
        ValueError: a negative count.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"counts must not be negative, got {first_only} and {second_only}")
    n = first_only + second_only
    tail = ways = 1
    for k in range(min(first_only, second_only)):
        ways = ways * (n - k) // (k + 1)  # binomial coefficients, each from the last: quick, and still exact
        tail += ways
    return min(1.0, 2 * tail / 2**n)


# Several tests at once (Holm, 1979): the chance of a single false alarm among all of them stays below the level.


def rejected(p: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected: the smallest p is held against level / m, the next against level / (m - 1), ...

    From the first that does not pass on, none does.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    out = [False] * len(p)
    for rank, i in enumerate(order):
        if p[i] > level / (len(p) - rank):
            break
        out[i] = True
    return out


class Overlap(NamedTuple):
    """Two sets of samples, both drawn from the same ``n``.

    Args:
        n: samples to choose from.
        a, b: the size of either set.
        both: samples in both.
    """

    n: int
    a: int
    b: int
    both: int

    @property
    def jaccard(self) -> float | None:
        """The size of the intersection over that of the union (Jaccard, 1912); None for two empty sets."""
        union = self.a + self.b - self.both
        return self.both / union if union else None

    @property
    def jaccard_by_chance(self) -> float | None:
        """What independent sets of these sizes would have, by their expected intersection a b / n; None for empty sets.

        Two sets of 90% of all samples share most of them whatever they are: compare :attr:`jaccard` with this.
        """
        both = self.a * self.b / self.n
        union = self.a + self.b - both
        return both / union if union else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (1960): agreement beyond chance, 1 where the sets are equal, 0 where they are independent.

        None where both sets are empty or have all samples: chance alone agrees everywhere then.
        """
        agreed = (self.n - self.a - self.b + 2 * self.both) / self.n
        p, q = self.a / self.n, self.b / self.n
        by_chance = p * q + (1 - p) * (1 - q)
        return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def overlap(a: Tensor, b: Tensor) -> Overlap:
    """Of two masks (N,) bool over the same samples, N at least 1.

    Raises:
        ValueError: masks of different lengths, or empty ones.
    """
    if a.shape != b.shape or a.dim() != 1 or not len(a):
        raise ValueError(f"two masks (N,) of the same samples, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return Overlap(len(a), int(a.sum()), int(b.sum()), int((a & b).sum()))
