"""Rows of corruptions.jsonl as tables."""

from pathlib import Path

import numpy as np
import pytest
import torch

from easybn.data.corruptions import CORRUPTIONS, SEVERITIES
from easybn.evaluation.corruptions import CorruptionEvaluation
from easybn.evaluation.verdicts import pack_bits
from easybn.json_files import Damaged
from easybn.stats import accuracy_interval, aggregate, repeated_interval
from easybn.tables.corruptions import evaluations, kinds_table, means_table, side_by_side

EVERY = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]


def evaluation(seed: int, n: int = 60) -> CorruptionEvaluation:
    """Random verdicts about easy points and hard ones."""
    generator = np.random.default_rng(seed)
    share = generator.beta(1, 0.5, n)
    return CorruptionEvaluation(None, {each: torch.from_numpy(generator.uniform(size=n) < share) for each in EVERY})


def rows_of(found: CorruptionEvaluation, source: str = "generated", points: str = "a", seed: int = 0) -> list[dict]:
    return [
        {
            "corruption": kind, "severity": severity, "source": source, "points": points, "points_seed": seed,
            "n": len(right), "correct": int(right.sum()), "right": pack_bits(right),
        }
        for (kind, severity), right in found.right.items()
    ]  # fmt: skip


def test_rows_give_the_latest_evaluation_that_is_complete():
    first, second, published = evaluation(0), evaluation(1), evaluation(2)
    rows = [
        *rows_of(first),
        *rows_of(published, "published"),
        *rows_of(second, seed=1),
        *rows_of(first, points="b")[:74],
    ]
    found = evaluations(rows, Path("r"))
    assert {*found} == {"generated", "published"}
    for mine, theirs in ((found["generated"], second), (found["published"], published)):
        assert all(torch.equal(mine.right[each], theirs.right[each]) for each in EVERY)
    assert evaluations(rows_of(first)[:-1], Path("r")) == {}
    for change, said in (
        ({"right": "!"}, r"r/corruptions\.jsonl is damaged: verdicts of gaussian_noise 1: no packed points"),
        (
            {"n": 59, "correct": rows_of(first)[0]["correct"]},
            "verdicts of gaussian_noise [12] are not as many as it says",
        ),
        ({"correct": 0}, "the verdicts of gaussian_noise 1 are not as many as it says: delete it"),
    ):
        damaged = rows_of(first)
        damaged[0] |= change
        with pytest.raises(Damaged, match=said):
            evaluations(damaged, Path("r"))


def test_kinds_and_severities_of_one_seed():
    found = evaluation(3)
    table = kinds_table("mine", [found], "generated")
    assert table.columns == ["1", "2", "3", "4", "5", "mean"]
    assert [row.label for row in table.rows] == [*(k if k != "frost" else "frost*" for k in CORRUPTIONS), "mean"]
    lines = dict(zip([*CORRUPTIONS, None], table.rows, strict=True))
    cell, right = lines["snow"].cells[3], found.right["snow", 4]
    percent = 100 * int(right.sum()) / 60
    assert (cell.text, cell.value, cell.n) == (f"{percent:.1f}", pytest.approx(percent), 60)
    low, high = accuracy_interval(int(right.sum()), 60)
    assert (cell.low, cell.high, cell.heat) == pytest.approx((100 * low, 100 * high, percent / 100))
    counts = sum(found.right["snow", severity].long() for severity in SEVERITIES)
    mean, interval = 100 * float(counts.sum()) / 300, repeated_interval(counts.tolist(), 5)
    assert lines["snow"].cells[5].text == f"{mean:.1f} ±{100 * interval.half_width:.1f}"
    total = sum(right.long() for right in found.right.values())
    assert lines[None].cells[5].value == pytest.approx(100 * float(total.sum()) / (75 * 60))
    at_two = sum(int(found.right[kind, 2].sum()) for kind in CORRUPTIONS)
    assert lines[None].cells[1].value == pytest.approx(100 * at_two / (15 * 60))
    assert "frost* is drawn" in table.caption
    assert "on 60 points" in table.caption
    published = kinds_table("mine", [found], "published")
    assert "frost" in [row.label for row in published.rows]
    assert "drawn here" not in published.caption


def test_means_over_seeds_and_groups():
    seeds = [evaluation(seed) for seed in range(3)]
    models = {"a": seeds, "b": seeds[:2]}
    table = means_table("title", models, "generated")
    assert table.columns == ["mCA", "noise", "blur", "weather", "digital"]
    noise = ("gaussian_noise", "shot_noise", "impulse_noise")
    values = [np.mean([float(each.right[k, s].double().mean()) for k in noise for s in SEVERITIES]) for each in seeds]
    mean, half, _ = aggregate(values)
    cell = table.rows[0].cells[1]
    assert (cell.text, cell.seeds) == (f"{100 * mean:.1f} ±{100 * half:.1f}", 3)
    assert "Mean over 2 to 3 seeds" in table.caption
    kinds = side_by_side("title", models, "generated")
    assert kinds.columns == ["a", "b"]
    assert kinds.rows[-1].label == "mCA"
    assert kinds.rows[-1].cells[0].value == pytest.approx(table.rows[0].cells[0].value)
    fog = [np.mean([float(each.right["fog", s].double().mean()) for s in SEVERITIES]) for each in seeds[:2]]
    assert kinds.rows[[*CORRUPTIONS].index("fog")].cells[1].value == pytest.approx(100 * np.mean(fog))
