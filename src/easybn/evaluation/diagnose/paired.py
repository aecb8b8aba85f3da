"""Two classifiers on the same points: the exact test of McNemar (Psychometrika, 1947)."""

from math import comb

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
    tail = sum(comb(n, k) for k in range(min(first_only, second_only) + 1))
    return min(1.0, 2 * tail / 2**n)
