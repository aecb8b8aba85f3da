"""The paper's columns: its own contradictions, planted ones, and figures that fit together."""

import json
from dataclasses import replace

import pytest

from easybn.evaluation import Score
from easybn.evaluation.result import contradictions
from easybn.paper.columns import paper_columns
from easybn.paper.numbers import COLUMNS, ROWS, paper_row

N = 1000


def _score(attack: str, percent: float, norm=None, eps=None, protocol=None, n=N, steps=100) -> Score:
    return Score(attack, n, round(percent / 100 * n), protocol=protocol, norm=norm, eps=eps, steps=steps)


def _consistent() -> list[Score]:
    return [
        _score("clean", 93),
        *(_score("pgd", p, "l2", e, "robustness") for e, p in ((0.1, 60), (0.5, 2.1), (1.0, 0.1))),
        *(_score("pgd", p, "l2", e, "strong") for e, p in ((0.1, 59.5), (0.5, 1.5), (1.0, 0))),
        _score("autoattack", 0, "linf", 8 / 255, "standard", steps=0),
        _score("autoattack", 1, "l2", 0.5, "standard", steps=0),
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table} {row.row}")
def test_every_row_of_the_paper_contradicts_itself(row):
    by_name = dict(zip((column.name for column in COLUMNS), row.percent, strict=True))
    (found,) = contradictions(row.scores)
    assert (found.higher.attack, found.higher.norm) == ("autoattack", "l2")
    assert (found.lower.attack, found.lower.eps) == ("pgd", 0.5)
    assert 100 * found.excess == pytest.approx(by_name["AA l2 0.5"] - by_name["l2 0.5"])
    assert 7 < 100 * found.excess < 50
    flagged = {each.column.name: each.flags for each in paper_columns([], row) if each.flags}
    assert list(flagged) == ["AA l2 0.5"]
    assert "which it cannot exceed" in flagged["AA l2 0.5"][0]


def test_the_numbers_are_those_of_the_tables():
    """Compared with the paper's text when they were typed; the sums keep them."""
    assert len({(row.data, row.model, row.method) for row in ROWS}) == len(ROWS) == 8
    assert all(len(row.percent) == len(COLUMNS) == 6 for row in ROWS)
    assert [row.table for row in ROWS] == [1] * 4 + [2] * 4
    assert [round(sum(row.percent), 2) for row in ROWS] == [
        510.44, 522.07, 449.49, 452.33, 303.32, 306.71, 308.32, 311.45,
    ]  # fmt: skip
    assert paper_row("cifar10", "resnet18", "ebn").percent[-1] == 77.19
    with pytest.raises(KeyError, match="no row for vanilla"):
        paper_row("cifar10", "resnet18", "vanilla")


def test_figures_that_fit_together():
    columns = paper_columns(_consistent())
    assert [each.column.name for each in columns] == [column.name for column in COLUMNS]
    assert not any(each.flags for each in columns)
    assert contradictions(_consistent()) == []
    at = {each.column.name: each for each in columns}
    assert all(each.paper is None for each in columns)
    assert at["Basic"].strong is None
    assert (at["l2 0.5"].protocol.accuracy, at["l2 0.5"].strong.accuracy) == (0.021, 0.015)
    assert at["l2 0.5"].worst.attack == "autoattack"
    assert at["l2 1.0"].worst.accuracy == 0
    assert at["l2 0.1"].worst.accuracy == 0.595
    assert at["AA linf 8/255"].strong is None


@pytest.mark.parametrize(
    ("number", "percent", "told"),
    [
        (1, 97, "pgd (robustness) l2 0.1 is 4.00 points above clean"),
        (3, 20, "above pgd (robustness) l2 0.5"),
        (6, 20, "above pgd (robustness) l2 1"),
        (8, 40, "autoattack (standard) l2 0.5 is 38.50 points above pgd (strong) l2 0.5"),
        (7, 99, "autoattack (standard) linf 8/255 is 6.00 points above clean"),
    ],
)
def test_a_planted_contradiction(number, percent, told):
    scores = _consistent()
    scores[number] = replace(scores[number], correct=round(percent / 100 * N))
    assert any(told in str(found) for found in contradictions(scores))
    assert any(told in flag for each in paper_columns(scores) for flag in each.flags)


@pytest.mark.parametrize(("number", "percent"), [(1, 93.9), (3, 2.5), (8, 2.4)])
def test_less_than_chance_is_no_contradiction(number, percent):
    scores = _consistent()
    scores[number] = replace(scores[number], correct=round(percent / 100 * N))
    assert contradictions(scores) == []


def test_what_bounds_nothing():
    strong = _score("pgd", 30, "l2", 0.5, "strong", steps=100)
    assert contradictions([strong, _score("pgd", 50, "l2", 1.0, "strong", steps=10)]) == []  # fewer steps
    assert contradictions([strong, _score("autoattack", 50, "linf", 0.5, "standard", steps=0)]) == []  # another norm
    assert contradictions([strong, _score("autoattack", 50, "l2", 0.1, "standard", steps=0)]) == []  # a smaller eps
    assert contradictions([strong, _score("apgd-ce", 50, "l2", 0.5, steps=0)]) == []  # a list of one's own
    assert contradictions([_score("apgd-ce", 5, "l2", 0.5, steps=0), strong]) == []
    (found,) = contradictions([_score("apgd-ce", 5, "l2", 0.1, steps=0), _score("apgd-ce", 50, "l2", 0.5, steps=0)])
    assert found.excess == pytest.approx(0.45)


def test_the_fault_of_the_protocol_is_told():
    scores = _consistent()
    scores[2] = replace(scores[2], correct=500)
    flags = next(each.flags for each in paper_columns(scores) if each.column.name == "l2 0.5")
    assert any("pgd (strong) l2 0.5 leaves 1.50, 48.50 points less" in flag for flag in flags)
    assert any("autoattack (standard) l2 0.5 leaves 1.00" in flag for flag in flags)


def test_the_paper_away_from_ours_and_scores_from_files():
    scores = [Score.from_dict(json.loads(json.dumps(score.to_dict()))) for score in _consistent()]
    columns = {each.column.name: each for each in paper_columns(scores, ROWS[4])}
    assert columns["AA l2 0.5"].paper.accuracy == pytest.approx(0.7785)
    assert any("the paper's 77.85 is 76.85 points above ours" in flag for flag in columns["AA l2 0.5"].flags)
    assert columns["Basic"].flags == ()


def test_of_two_measurements_the_larger_counts():
    columns = paper_columns([*_consistent(), _score("clean", 80, n=10), _score("clean", 94, n=9000)])
    assert columns[0].protocol.n == 9000
