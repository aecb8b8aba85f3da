"""Two classifiers on the same points: the exact test of McNemar (Psychometrika, 1947)."""

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
