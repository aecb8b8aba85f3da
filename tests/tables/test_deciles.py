"""Accuracy by tenths of the test images, on made-up verdicts whose counts are known."""

import json

import numpy as np
import pytest

from easybn.evaluation.verdicts import pack_bits, points_digest
from easybn.runs.evaluate import drawn_points
from easybn.stats import paired_difference_interval
from easybn.tables.aggregate import settings
from easybn.tables.deciles import Deciles, all_changes, changes, decile_tables, latest
from easybn.tables.rows import CLEAN, Column, read

from ..report.made_up import POINTS, N, census, run, study

AUTOATTACK = Column("x", "autoattack", "standard", "linf", 8 / 255)


@pytest.fixture(scope="module")
def deciles(tmp_path_factory) -> Deciles:
    folder = census(tmp_path_factory.mktemp("census") / "x")
    found = latest(read(folder).deciles, "fashion-mnist")
    assert latest(read(folder).deciles, "cifar10") is None
    assert np.bincount(found.of).tolist() == [N // 10] * 10
    return found


def test_differences_are_paired_over_seeds(setting, deciles):
    vanilla, _, ebn, _ = setting.recipes
    found = changes(ebn, vanilla, CLEAN, deciles)
    assert [each.group for each in found] == list(range(10))
    assert [each.n for each in found] == [N // 10] * 10
    assert {each.seeds for each in found} == {3}
    hardest = found[0]  # 200, 205, 210 of 1,000 right; 70, 68, 66 fewer
    assert hardest.base == pytest.approx(0.205)
    assert hardest.difference == pytest.approx(-0.068)
    half = 4.302653 * 0.002 / 3**0.5
    assert (hardest.low, hardest.high) == pytest.approx((-0.068 - half, -0.068 + half), rel=1e-5)
    assert [(each.base, each.difference) for each in found[1:]] == [(1, 0)] * 9


def test_of_one_seed_the_interval_is_over_images(tmp_path, deciles):
    (setting,) = settings(read(study(tmp_path, ("vanilla", "ebn"), 1)).runs)
    hardest, *_, easiest = changes(setting.recipes[1], setting.recipes[0], CLEAN, deciles)
    assert hardest[2:6] == pytest.approx((0.2, -0.07, *paired_difference_interval(0, 70, 1000)))
    assert (easiest.low, easiest.high) == pytest.approx(paired_difference_interval(0, 0, 1000))


def test_points_are_known_by_their_draw(tmp_path, deciles):
    """Verdicts of 200 points of which the digest is of no draw are left out; those of a draw are used."""
    folder = study(tmp_path, ("vanilla", "ebn"), 2)
    (setting,) = settings(read(folder).runs)
    assert changes(setting.recipes[1], setting.recipes[0], AUTOATTACK, deciles) == []
    points = drawn_points(N, POINTS, 5).numpy()
    hard = deciles.of[points] == 0
    for seed in range(2):
        for recipe, right in (("vanilla", np.zeros(POINTS, bool)), ("ebn", hard)):
            path = folder / f"{recipe}-{seed}" / "verdicts.jsonl"
            row = {"attack": "autoattack", "protocol": "standard", "norm": "linf", "eps": 8 / 255, "n": POINTS}
            row |= {"points": points_digest(points.tolist()), "right": pack_bits(right)}
            path.write_text(path.read_text() + json.dumps(row) + "\n")
            scores = folder / f"{recipe}-{seed}" / "scores.jsonl"
            lines = [json.loads(line) for line in scores.read_text().splitlines()]
            scores.write_text("".join(json.dumps({**line, "points_seed": 5}) + "\n" for line in lines))
    (setting,) = settings(read(folder).runs)
    found = changes(setting.recipes[1], setting.recipes[0], AUTOATTACK, deciles)
    assert found[0].n == int(hard.sum())
    assert (found[0].base, found[0].difference) == (0, 1)
    assert {each.difference for each in found[1:]} == {0}
    assert sum(each.n for each in found) == POINTS
    columns = [each.column.name for each in all_changes(setting, deciles)]
    assert columns == ["Basic", "autoattack standard linf 8/255"]


def test_other_recipes_are_compared_with_vanilla_in_a_table(setting, deciles):
    (table,) = decile_tables(setting, deciles)
    assert table.columns == ["Vanilla", "AdvProp 8/255", "EBN 8/255", "AdvPropEBN 8/255"]
    assert [row.label for row in table.rows] == ["1 (hardest)", *map(str, range(2, 10)), "10 (easiest)"]
    vanilla, advprop, ebn, both = (cell.text for cell in table.rows[0].cells)
    assert (vanilla, ebn) == ("20.5", "-6.8 ±0.5")
    assert (advprop[:6], both[:6]) == ("+5.0 ±", "+1.5 ±")
    assert "paired over 3 seeds; 1,000 images in each tenth" in table.caption
    (sentence,) = table.notes
    assert sentence.startswith(
        "Beside Vanilla, EBN 8/255 changes most on the hardest tenth: -6.8 points (-7.3 to -6.3)"
    )
    assert decile_tables(setting, None) == []


def test_a_damaged_census_is_told(tmp_path):
    path = census(tmp_path / "x") / "deciles.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "deciles": "012"}) + "\n")
    with pytest.raises(ValueError, match="3 digits for 10000 images"):
        latest(read(tmp_path).deciles, "fashion-mnist")
    path.write_text(json.dumps({**row, "deciles": "0x2"}) + "\n")
    with pytest.raises(ValueError, match="deciles must be a text of digits"):
        read(tmp_path)


def test_of_two_vanillas_the_one_of_the_others_rate_is_compared_with(tmp_path, deciles):
    for name, recipe, lr in (("a", "vanilla", 0.05), ("b", "vanilla", 0.1), ("c", "ebn", 0.1)):
        run(tmp_path / name, recipe, 0, lr=lr)
    (setting,) = settings(read(tmp_path).runs)
    (found,) = all_changes(setting, deciles)
    assert found.base == "Vanilla, lr 0.1"
    assert list(found.by_recipe) == ["Vanilla, lr 0.05", "EBN 8/255"]
