import dataclasses
import json

import pytest

from easybn.evaluation import Score, accuracy_interval

SCORE = Score(
    attack="pgd",
    n=200,
    correct=31,
    protocol="strong",
    norm="linf",
    eps=8 / 255,
    steps=100,
    step_size=0.2 / 255,
    random_start=True,
    seed=7,
    batch_size=128,
    max_perturbation=0.0313725,
    non_finite=3,
)


@pytest.mark.parametrize("score", [SCORE, Score("clean", 3, 2)])
def test_round_trip_through_json(score):
    row = json.loads(json.dumps(score.to_dict(), allow_nan=False))
    assert Score.from_dict(row) == score
    assert set(row) == {field.name for field in dataclasses.fields(Score)}


def test_accuracy_and_interval():
    assert SCORE.accuracy == 31 / 200
    assert SCORE.interval == accuracy_interval(31, 200)


def test_refuses_impossible_counts_and_unknown_fields():
    with pytest.raises(ValueError, match="correct must be in 0"):
        Score("clean", 3, 4)
    with pytest.raises(ValueError, match="no field 'colour'"):
        Score.from_dict({**SCORE.to_dict(), "colour": "red"})
