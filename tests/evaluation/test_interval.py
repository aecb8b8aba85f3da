import math

import pytest

from easybn.evaluation import accuracy_interval


@pytest.mark.parametrize(
    ("correct", "n", "points"), [(5000, 10_000, 1.0), (100, 10_000, 0.2), (500, 1000, 3.1), (5000, 5000, 0.0)]
)
def test_half_width_in_points(correct, n, points):
    assert round(100 * accuracy_interval(correct, n).half_width, 1) == points


def test_ends_solve_the_score_equation():
    # Wilson: the p for which the observed share is exactly z standard errors away
    interval = accuracy_interval(7, 30)
    for p in interval:
        assert abs(7 / 30 - p) / math.sqrt(p * (1 - p) / 30) == pytest.approx(1.959964, abs=1e-6)


def test_never_leaves_the_unit_interval_and_never_is_a_point():
    for n in (1, 5, 1000):
        assert accuracy_interval(0, n).low == 0.0 < accuracy_interval(0, n).high < 1
        assert accuracy_interval(n, n).high == 1.0 > accuracy_interval(n, n).low > 0


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_coverage_by_enumeration(confidence):
    n = 100
    intervals = [accuracy_interval(k, n, confidence) for k in range(n + 1)]
    coverages = []
    for p in [i / 200 for i in range(20, 181)]:
        covered = sum(
            math.comb(n, k) * p**k * (1 - p) ** (n - k) for k, (low, high) in enumerate(intervals) if low <= p <= high
        )
        coverages.append(covered)
        assert covered == pytest.approx(confidence, abs=0.06)
    assert sum(coverages) / len(coverages) == pytest.approx(confidence, abs=0.005)


@pytest.mark.parametrize(("correct", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 2, 1.0)])
def test_refuses_nonsense(correct, n, confidence):
    with pytest.raises(ValueError, match="must be"):
        accuracy_interval(correct, n, confidence)
