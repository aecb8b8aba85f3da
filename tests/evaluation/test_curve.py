"""Curves of robust accuracy over eps against a loop over the points, on stores made by hand and on real attacks."""

import math

import numpy as np
import pytest

from easybn.evaluation import evaluate
from easybn.evaluation.curve import RobustnessCurve
from easybn.evaluation.record import CLEAN, Record, Stage
from easybn.rows import VERDICTS
from easybn.runs.verdicts import curve_of, finished_verdicts, store_verdicts

from ..small import small_images, small_net
from .store.by_hand import RADII, stored

NEAREST = {7: 0.0, 3: 0.05, 11: 0.1, 2: 0.15, 5: 0.3, 1: math.inf, 8: 0.7, 4: -0.2, 6: -0.4, 9: 0.25}


def slow(record, points, eps):
    """How many points have no adversarial image within eps among all attempts."""
    attempts = list(zip(record.point.tolist(), record.distance.tolist(), strict=True))
    return sum(not any(distance <= eps for of, distance in attempts if of == point) for point in points)


@pytest.fixture
def curve(tmp_path):
    store = stored(tmp_path / "s", NEAREST, chunk=4)
    return curve_of(store, finished_verdicts(store))


def test_a_curve_by_hand(curve):
    """Images at 0, 0.05, 0.1, 0.15, 0.25, 0.3; of the other attack 0.18 (point 4) and 0.36 (point 6)."""
    expected = {0.0: 9, 0.04: 9, 0.05: 8, 0.09: 8, 0.1: 7, 0.15: 6, 0.17: 6, 0.19: 5, 0.2: 5, 0.25: 4, 0.3: 3, 0.4: 2}
    assert {eps: curve.most(eps) for eps in expected} == expected
    # what withstood the next larger radius: 7 points at 0.1, 5 at 0.2, 2 at 0.4
    lower = {0.0: 9, 0.04: 7, 0.1: 7, 0.11: 5, 0.2: 5, 0.21: 2, 0.4: 2}
    assert {eps: curve.least(eps) for eps in lower} == lower


def test_a_curve_ends_where_attacks_did(curve):
    for beyond in (0.41, 0.7, -0.1):
        with pytest.raises(ValueError, match=r"nothing was attacked at eps .*: the curve is known from 0 to 0.4"):
            curve.most(beyond)
    with pytest.raises(ValueError, match="at least one radius"):
        RobustnessCurve.of("l2", Record.joined([]), np.arange(3), {})


def test_a_curve_is_the_score_at_the_radii_that_were_attacked(tmp_path):
    store = stored(tmp_path / "verdicts" / "s", NEAREST, chunk=4)
    rows = list(store_verdicts(tmp_path))
    (kept,) = [row["curve"] for row in rows if "curve" in row]
    assert VERDICTS["curve"].holds(kept)
    assert kept["attacked"] == list(RADII)
    assert kept["n"] == 10
    verdicts, record = store.verdicts(), store.record
    for eps in RADII:
        at = kept["eps"].index(eps)
        assert kept["most"][at] == kept["least"][at] == int(verdicts.robust(eps).sum())
    for at, eps in enumerate(kept["eps"]):
        assert kept["most"][at] == slow(record, verdicts.points.tolist(), eps)
    broken = [{**kept, "most": kept["most"][1:]}, {**kept, "n": 3}, {**kept, "attacked": [0.33]}, {**kept, "eps": "x"}]
    assert not [each for each in broken if VERDICTS["curve"].holds(each)]


def test_an_image_found_at_a_larger_radius_counts_from_its_distance_on():
    """Point 0 withstood the attack at 0.1, and the one at 0.4 found an image at 0.08."""
    small = Record.of(Stage("apgd-ce", 0.1), [0, 1], success=False, distance=np.inf)
    large = Record.of(Stage("apgd-ce", 0.4), [0, 1], success=[True, False], distance=[0.08, np.inf])
    clean = Record.of(CLEAN, [0, 1], success=False, distance=np.inf)
    at = {0.1: np.array([True, True]), 0.4: np.array([False, True])}
    found = RobustnessCurve.of("linf", Record.joined([clean, small, large]), np.arange(2), at)
    assert [found.most(eps) for eps in (0.0, 0.07, 0.08, 0.1, 0.4)] == [2, 2, 1, 1, 1]
    assert [found.least(eps) for eps in (0.0, 0.07, 0.08, 0.1, 0.4)] == [2, 2, 1, 1, 1]


def test_a_result_has_its_curve():
    model, x = small_net(), small_images(12)
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    found = evaluate(model, x, y, eps=[0.1, 0.3], attacks=["apgd-ce", "fab-t"], diagnosis=False)
    for eps, robust in found.robust_at.items():
        assert found.curve.most(eps) == found.curve.least(eps) <= int(robust.sum())
    for eps in np.linspace(0, 0.3, 13).tolist():
        assert found.curve.most(eps) == slow(found.record, found.points.tolist(), eps)
    reference = evaluate(model, x, y, eps=[0.1, 0.3], steps=3, protocol="robustness", diagnosis=False)
    assert [reference.curve.most(eps) for eps in (0.0, 0.1, 0.3)] == [score.correct for score in reference.scores]
