"""Intervals and tests: accuracies, means over seeds, paired comparisons, agreement of two sets.

The distributions are those of scipy.special, imported when first needed: scipy.stats has the same ones, and takes six
times as long to import.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

SIGNIFICANT = 0.001
"""Bound of p in the diagnosis: it makes a dozen comparisons, and a false alarm costs trust."""


# An accuracy measured on n points.


class Interval(NamedTuple):
    """Two accuracies in [0, 1] between which the true one lies."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the distance between the two: the number after the plus-minus sign."""
        return (self.high - self.low) / 2


@cache
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
    return _score_interval(correct / n, n, confidence)


def _score_interval(p: float, n: float, confidence: float) -> Interval:
    """Of a proportion ``p`` of n points, which need not be a whole number."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    shrink = 1 / (1 + z * z / n)
    centre = (p + z * z / (2 * n)) * shrink
    half = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) * shrink
    # the ends at 0% and 100% are exact on paper and not in floating point
    return Interval(0.0 if p == 0 else centre - half, 1.0 if p == 1 else centre + half)


def repeated_interval(correct: Sequence[int], times: int, confidence: float = 0.95) -> Interval:
    """The interval of an accuracy for which every point was classified several times, such as under 15 corruptions.

    Answers about one point are alike, so that 15 answers about each of n points tell less than 15 n points would. It is
    Wilson's interval for the number of points that would vary as much (Kish's effective sample size, 1965; with
    intervals of proportions Korn & Graubard, 1998): times * n if all answers were independent, n if a point's answers
    were always the same. It is about points drawn like these, not about other corruptions.

    Args:
        correct: for each point, how often it was classified correctly.
        times: how often it was classified.
        confidence: in (0, 1).

    Raises:
        ValueError: no points, or counts or a confidence out of range.
    """
    if not correct or times < 1 or not 0 <= min(correct) <= max(correct) <= times:
        raise ValueError(f"one count in 0 .. {times} for each of at least one point, and at least one time")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    n, p = len(correct), sum(correct) / (times * len(correct))
    if p in (0, 1):
        return _score_interval(p, n, confidence)
    of_answers = p * (1 - p)
    of_points = sum((count / times - p) ** 2 for count in correct) / n
    return _score_interval(p, n * of_answers / max(of_points, of_answers / times), confidence)


# A sample drawn from finitely many: how many of all have what some of the sample have.


class Counts(NamedTuple):
    """Two numbers of members of a finite set between which the true one lies."""

    low: int
    high: int


@cache
def count_interval(found: int, drawn: int, population: int, confidence: float = 0.95) -> Counts:
    """The exact interval of a count in a finite set, from a sample without replacement (Buonaccorsi, 1987).

    It has all counts under which so few and so many in a sample have each a chance of at least (1 - confidence) / 2, by
    the hypergeometric distribution. In a large set these are Clopper and Pearson's limits; of a sample of all, the
    count itself.

    Args:
        found: number in the sample that have the property, in 0 .. drawn.
        drawn: size of the sample, in 0 .. population.
        population: size of the set.
        confidence: probability that the interval covers the true count, at least; in (0, 1).

    Raises:
        ValueError: counts or a confidence out of range.
    """
    if not 0 <= found <= drawn <= population:
        raise ValueError(f"counts must be 0 <= found <= drawn <= population, got {found}, {drawn}, {population}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    tail = (1 - confidence) / 2 * (1 - 1e-9)  # a chance of exactly that much must not fall to rounding

    def high(seen: int) -> int:
        """The largest count under which so few in a sample are not too rare."""
        least, most = seen, population - drawn + seen  # it is at least the first: the sample is not all others
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (middle, most) if _at_most(seen, drawn, middle, population) >= tail else (least, middle - 1)
        return least

    # a sample with so many that have it is one with few that have not
    return Counts(population - high(drawn - found), high(found))


def _at_most(seen: int, drawn: int, count: int, population: int) -> float:
    """The chance that a sample has at most ``seen`` of the ``count`` members that have the property."""
    others, total = population - count, _log_choose(population, drawn)
    possible = range(max(0, drawn - others), min(seen, count) + 1)
    return math.fsum(math.exp(_log_choose(count, k) + _log_choose(others, drawn - k) - total) for k in possible)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def sample_size(population: int, most: int, confidence: float = 0.95) -> int:
    """The smallest sample that shows, if none in it has the property, that at most ``most`` of the set have it.

    Args:
        population: size of the set.
        most: a count, at least 0.
        confidence: of the two-sided :func:`count_interval`.
    """
    least, enough = 0, population
    while least < enough:
        middle = (least + enough) // 2
        if count_interval(0, middle, population, confidence).high <= most:
            enough = middle
        else:
            least = middle + 1
    return least


# Values of several seeds: their mean with its interval, and the paired test (Student, 1908).


class Aggregate(NamedTuple):
    """A mean over seeds and half the width of its interval, which is None for a single seed."""

    mean: float
    half_width: float | None
    seeds: int


def aggregate(values: Sequence[float], confidence: float = 0.95, resolution: float = 0.0) -> Aggregate:
    """The mean of ``values``, one per seed, and the interval for the mean over all possible seeds: t s / sqrt(n).

    It covers the randomness of training, not the draw of the test images, and assumes normal values: near 0 and 1 it
    may reach beyond what an accuracy can be.

    Args:
        values: at least one.
        confidence: in (0, 1).
        resolution: values are whole multiples of it, such as 1 / n for an accuracy on n points. s is at least the
            standard deviation of rounding to it, resolution / sqrt(12): a few seeds with the same count do not mean
            that there is no spread.

    Raises:
        ValueError: no values, or a confidence out of (0, 1).
    """
    if not values or not 0 < confidence < 1:
        raise ValueError(f"at least one value and a confidence in (0, 1), got {len(values)} and {confidence}")
    n = len(values)
    half = None if n == 1 else t_quantile(n - 1, confidence) * _spread(values, resolution) / math.sqrt(n)
    return Aggregate(mean(values), half, n)


@cache
def t_quantile(freedom: int, confidence: float) -> float:
    """t with P(\\|T\\| <= t) = confidence, for T of Student's distribution with ``freedom`` degrees."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


class PairedT(NamedTuple):
    """A mean difference, half the width of its 95% interval and the two-sided p; both are None where unknown."""

    mean: float
    half_width: float | None
    p: float | None
    seeds: int


def paired_t(differences: Sequence[float], resolution: float = 0.0) -> PairedT:
    """The paired t test of ``differences``, one per seed, against a mean of zero.

    Half width and p are None for a single difference, and for several equal ones without a ``resolution``: they show
    no spread to compare the mean with.

    Args:
        differences: at least one.
        resolution: of the two values that are subtracted, see :func:`aggregate`.

    Raises:
        ValueError: no differences.
    """
    total = aggregate(differences, resolution=math.sqrt(2) * resolution)
    if total.seeds == 1 or not (spread := _spread(differences, math.sqrt(2) * resolution)):
        return PairedT(total.mean, None, None, total.seeds)
    from scipy.special import stdtr

    t = abs(total.mean) * math.sqrt(total.seeds) / spread
    return PairedT(total.mean, total.half_width, float(2 * stdtr(total.seeds - 1, -t)), total.seeds)


def _spread(values: Sequence[float], resolution: float) -> float:
    """Standard deviation, at least that of rounding to ``resolution``; 0 for values that differ by float error only."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return max(spread if spread > 1e-12 * max(map(abs, values)) else 0.0, resolution / math.sqrt(12))


# The median of values of which some are only known to be larger than all others.


class Median(NamedTuple):
    """A median and the ends of its interval; an end that lies among values not reached is infinite."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Median:
    """The median of ``values`` and its exact interval by order statistics (Thompson, 1936), whatever the distribution.

    A value that was not reached (censored) is given as infinity, and counts as larger than all others. Of an even
    number of values the median is the mean of the middle two, or infinite if the upper one is. The number of values
    below the true median is binomial: the interval is the shortest one, from the k-th value from below to the k-th from
    above, that covers it with at least ``confidence``. With fewer values than that takes (6 for 95%) it is everything,
    from minus infinity to infinity.

    Args:
        values: at least one, each of another image or seed.
        confidence: in (0, 1).

    Raises:
        ValueError: no values, one that is not a number, or a confidence out of (0, 1).
    """
    if not values or any(math.isnan(value) for value in values) or not 0 < confidence < 1:
        raise ValueError(f"at least one value, none of them NaN, and a confidence in (0, 1), got {len(values)} values")
    ordered, n = sorted(values), len(values)
    lower, upper = ordered[(n - 1) // 2], ordered[n // 2]
    k = _median_rank(n, confidence)
    low, high = (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)
    return Median((lower + upper) / 2 if math.isfinite(upper) else upper, low, high)


@cache
def _median_rank(n: int, confidence: float) -> int:
    """The largest k with at most (1 - confidence) / 2 of the chance that fewer than k of n values lie below."""
    tail = Fraction((1 - confidence) / 2) * 2**n
    k, ways, total = 0, 1, 1  # in whole numbers: ways to have k values below, and at most k
    while total <= tail:
        ways = ways * (n - k) // (k + 1)
        k, total = k + 1, total + ways
    return k


# Tests on the same points, and several tests at once.


def mcnemar(first_only: int, second_only: int) -> float:
    """The exact two-sided p of McNemar's test (Psychometrika, 1947) for two classifiers on the same points.

    Args:
        first_only: number of points that only the first gets right; second_only: that only the second does.

    Raises:
        ValueError: a negative count.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"counts must not be negative, got {first_only} and {second_only}")
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(first_only, second_only), first_only + second_only, 0.5)))


@cache
def paired_difference_interval(first_only: int, second_only: int, n: int, confidence: float = 0.95) -> Interval:
    """The score interval of the difference of two accuracies on the same points (Tango, Statistics in Medicine, 1998).

    It lies inside [-1, 1], and has a width where the two agree everywhere. For some counts near p = 0.05 it excludes
    zero where McNemar's exact test, which is cautious, does not reject.

    Args:
        first_only: number of points that only the first gets right; second_only: that only the second does.
        n: number of points, at least 1.
        confidence: in (0, 1).

    Returns:
        Ends of the interval for the first accuracy minus the second.

    Raises:
        ValueError: counts or a confidence out of range.
    """
    if min(first_only, second_only) < 0 or first_only + second_only > n or n < 1:
        raise ValueError(f"counts must be from 0 to n together, got {first_only} and {second_only} of {n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    from scipy.special import ndtri

    bound = float(ndtri((1 + confidence) / 2))

    def excess(difference: float) -> float:
        """How many standard deviations the counts lie above those expected under ``difference``; it falls with it."""
        # the likeliest share of points that only the second gets right, given the difference
        a, c = 2 * n, -second_only * difference * (1 - difference)
        b = -first_only - second_only + (2 * n - first_only + second_only) * difference
        share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * share + difference * (1 - difference))
        above = first_only - second_only - n * difference
        if variance > 1e-12:
            return above / math.sqrt(variance)
        return 0.0 if abs(above) < 1e-9 else math.copysign(math.inf, above)

    middle = (first_only - second_only) / n
    low, high = -1.0, middle
    for _ in range(60):  # halving finds the difference where the excess is the bound
        at = (low + high) / 2
        low, high = (at, high) if excess(at) > bound else (low, at)
    first_end = high if excess(-1.0) > bound else -1.0
    low, high = middle, 1.0
    for _ in range(60):
        at = (low + high) / 2
        low, high = (at, high) if excess(at) >= -bound else (low, at)
    return Interval(first_end, low if excess(1.0) < -bound else 1.0)


def holm(p: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected so that the chance of any false alarm stays below ``level`` (Holm, 1979).

    The smallest p is compared with level / m, the next with level / (m - 1), and so on up to the first that fails.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    rejected = [False] * len(p)
    for rank, i in enumerate(order):
        if p[i] > level / (len(p) - rank):
            break
        rejected[i] = True
    return rejected


# How far two sets of samples agree, and how far chance alone would make them agree.


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


def overlap(a: "Tensor", b: "Tensor") -> Overlap:
    """The overlap of two masks (N,) bool over the same samples, N at least 1.

    Raises:
        ValueError: masks of different lengths, or empty ones.
    """
    if a.shape != b.shape or a.dim() != 1 or not len(a):
        raise ValueError(f"two masks (N,) of the same samples, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return Overlap(len(a), int(a.sum()), int(b.sum()), int((a & b).sum()))
