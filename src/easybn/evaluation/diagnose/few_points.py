"""Whether there are enough points for what is said of them."""

import math
from statistics import NormalDist

from ..interval import accuracy_interval
from .finding import Finding
from .subject import Subject

WIDE = 0.05
"""Half-width of a 95% interval from which on models of different quality cannot be told apart."""
WANTED = 0.01
"""Half-width that a comparison of models needs, and for which the number of points is given."""


def few_points(subject: Subject) -> list[Finding]:
    """The widest 95% interval of the evaluation's scores, or that of clean accuracy."""
    scores = subject.evaluation.scores if subject.evaluation else []
    counts = [(score.correct, score.n) for score in scores] or [(int(subject.correct.sum()), subject.n)]
    correct, n = max(counts, key=lambda each: accuracy_interval(*each).half_width)
    half = accuracy_interval(correct, n).half_width
    size = f"{correct / n:.1%} of {n:,} points, plus or minus {half:.1%} (bound {WIDE:.0%})"
    if half <= WIDE:
        return [Finding("points", "ok", "the intervals are narrow enough", size)]
    return [
        Finding(
            "points", "note", "the interval is wide", size,
            "differences smaller than that cannot be seen",
            f"take {points_for(correct / n, WANTED):,} points for plus or minus {WANTED:.0%} at this accuracy",
        )
    ]  # fmt: skip


def points_for(accuracy: float, half_width: float, confidence: float = 0.95) -> int:
    """The least number of points whose interval (:func:`accuracy_interval`) is no wider than wanted.

    With z of the confidence, p and q = 1 - p, the half-width h obeys (h (n + z^2))^2 = z^2 (n p q + z^2 / 4),
    which is a quadratic equation in n.

    Args:
        accuracy: p, in [0, 1]; half_width: h, in (0, 0.5).

    Raises:
        ValueError: numbers out of range.
    """
    if not 0 <= accuracy <= 1 or not 0 < half_width < 0.5:
        raise ValueError(f"accuracy in [0, 1] and half_width in (0, 0.5), got {accuracy} and {half_width}")
    z2, h2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2, half_width**2
    half_b = z2 * (h2 - accuracy * (1 - accuracy) / 2)
    c = z2**2 * (h2 - 0.25)
    return max(1, math.ceil((-half_b + math.sqrt(half_b**2 - h2 * c)) / h2))
