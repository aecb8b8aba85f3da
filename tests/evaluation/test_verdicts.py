"""Verdicts against a reference that is slow and plain."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easybn.evaluation.record import CLEAN, Record, Stage
from easybn.evaluation.verdicts import Verdicts, derive, to_attack
from easybn.stats import accuracy_interval

EPS = (0.25, 0.5, 1.0)
STAGES = (CLEAN, *(Stage(attack, eps) for eps in EPS for attack in ("apgd-ce", "fab-t", "square")))
POINTS = np.array([7, 3, 12, 5])


@st.composite
def records(draw) -> Record:
    """Any tries at all at the points and at another one, each point classified once."""
    parts = []
    for point in (*POINTS.tolist(), 99):
        wrong = draw(st.booleans())
        parts.append(Record.of(CLEAN, [point], success=wrong, distance=0.0 if wrong else math.inf))
    tries = st.tuples(
        st.sampled_from((*POINTS.tolist(), 99)),
        st.sampled_from(STAGES[1:]),
        st.sampled_from((0.1, 0.25, 0.3, 0.5, 0.7, 1.0, 2.0, math.inf)),
    )
    for point, stage, distance in draw(st.lists(tries, max_size=12)):
        if stage.attack != "fab-t" and distance > stage.eps:
            distance = math.inf  # others look no farther
        parts.append(Record.of(stage, [point], success=distance <= stage.eps, distance=distance))
    return Record.joined(draw(st.permutations(parts)))


def slow(record: Record, point: int, eps: float, share: bool, upto: int = len(STAGES)) -> int:
    """The number of the first stage, among the first ``upto``, that makes the point fall at ``eps``; else -1."""
    for number, stage in enumerate(STAGES[:upto]):
        for i in range(len(record)):
            if record.point[i] != point or (record.attack[i], record.eps[i]) != stage:
                continue
            if stage == CLEAN:
                fallen = record.success[i]
            elif stage.attack == "fab-t" and record.distance[i] <= eps:  # type: ignore[attr-defined]
                fallen = True
            elif stage.eps == eps or (share and stage.eps < eps):  # type: ignore[attr-defined]
                fallen = record.success[i]
            else:
                fallen = False
            if fallen:
                return number
    return -1


@given(records(), st.booleans())
def test_against_the_slow_reference(record, share):
    verdicts = derive(record, POINTS, STAGES, share)
    for eps in (0.0, *EPS):
        expected = [slow(record, point, eps, share) for point in POINTS]
        assert verdicts.broken_at[eps].tolist() == expected
        assert verdicts.robust(eps).tolist() == [number < 0 for number in expected]
        assert verdicts.interval(eps) == accuracy_interval(expected.count(-1), len(POINTS))
        counts = verdicts.broken_by(eps)
        assert sum(counts.values()) == len(POINTS) - expected.count(-1)
        for attack, count in counts.items():
            assert count == sum(number >= 0 and STAGES[number].attack == attack for number in expected)
    assert verdicts.clean.tolist() == [slow(record, point, 0.0, share) < 0 for point in POINTS]


@given(records(), st.booleans(), st.integers(1, len(STAGES) - 1))
def test_a_stage_works_on_what_stands(record, share, number):
    """And a search for the nearest image is not done twice."""
    stage = STAGES[number]
    earlier = {tuple(each) for each in STAGES[:number]}
    rows = zip(record.attack.tolist(), record.eps.tolist(), strict=True)
    before = record.where(np.array([row in earlier for row in rows]))
    expected = []
    for point in POINTS.tolist():
        searched = stage.attack == "fab-t" and ((before.point == point) & (before.attack == "fab-t")).any()
        if slow(before, point, stage.eps, share) < 0 and not searched:
            expected.append(point)
    assert to_attack(before, stage, POINTS, share).tolist() == expected


def test_sharing_and_the_nearest_image():
    inf = math.inf
    clean = Record.of(CLEAN, POINTS, success=[1, 0, 0, 0], distance=[0, inf, inf, inf])
    apgd = Record.of(STAGES[1], [3], success=True, distance=0.2)
    fab = Record.of(STAGES[2], [12, 5], success=False, distance=[0.4, inf])
    record = Record.joined([clean, apgd, fab])
    shared, alone = (derive(record, POINTS, STAGES, share) for share in (True, False))
    assert shared.clean.tolist() == [False, True, True, True]
    assert shared.robust(0.25).tolist() == alone.robust(0.25).tolist() == [False, False, True, True]
    assert shared.robust(0.5).tolist() == [False, False, False, True]
    assert alone.robust(0.5).tolist() == [False, True, False, True]
    assert shared.broken_by(0.5) == {"clean": 1, "apgd-ce": 1, "fab-t": 1, "square": 0}
    assert alone.broken_by(0.5) == {"clean": 1, "apgd-ce": 0, "fab-t": 1, "square": 0}


def test_what_cannot_be_judged():
    clean = Record.of(CLEAN, POINTS[1:], success=False, distance=math.inf)
    with pytest.raises(ValueError, match="1 points without a clean verdict, such as 7"):
        derive(clean, POINTS, STAGES)
    with pytest.raises(ValueError, match="first stage"):
        derive(clean, POINTS[1:], STAGES[1:])
    other = Record.joined([clean, Record.of(Stage("pgd", 0.1), [3], success=True, distance=0.1)])
    with pytest.raises(ValueError, match=r"pgd 0\.1, which is none"):
        derive(other, POINTS[1:], STAGES)
    nothing: Verdicts = derive(Record.joined([]), POINTS[:0], STAGES)
    assert nothing.robust(0.5).tolist() == []
    with pytest.raises(KeyError):
        nothing.robust(0.3)


def test_columns_are_checked():
    with pytest.raises(ValueError, match="target has values that int16 cannot hold"):
        Record.of(CLEAN, [1], success=False, distance=0, target=40_000)
    with pytest.raises(ValueError, match="iteration has values"):
        Record.of(CLEAN, [1], success=False, distance=0, iteration=math.nan)
    whole = Record.of(CLEAN, [1, 2], success=False, distance=0)
    with pytest.raises(ValueError, match=r"eps has shape \(1,\) for 2 rows"):
        Record(**(whole.columns | {"eps": np.zeros(1)}))
    assert len(whole.where(np.array([False, True]))) == 1
    assert str(Stage("apgd-ce", 8 / 255)) == "apgd-ce 0.03137"
    assert str(CLEAN) == "clean"
