"""Frontiers of known area, the monotone envelope by its definition, and intervals against slow versions."""

import json
import math

import numpy as np
import pytest

from easybn.stats import paired_t, t_quantile
from easybn.tables.aggregate import settings
from easybn.tables.frontier import (
    Frontier,
    common_range,
    compare_strengths,
    difference,
    field_names,
    frontier_table,
    robust_columns,
    strengths,
)
from easybn.tables.rows import read

from .strengths import perturbing, run, study


def frontier(*points: tuple[float, float]) -> Frontier:
    clean, robust = np.array(points, float).T
    return Frontier(clean, robust)


def test_the_area_under_frontiers_drawn_by_hand():
    slope = frontier((0.92, 0.2), (0.90, 0.6))
    assert slope.mean(0.90, 0.92) == pytest.approx(0.4)
    assert slope.mean(0.90, 0.91) == pytest.approx(0.5)
    bent = frontier((0.90, 0.6), (0.91, 0.5), (0.92, 0.2))
    assert bent.mean(0.90, 0.92) == pytest.approx((0.55 + 0.35) / 2)
    assert bent.mean(0.905, 0.915) == pytest.approx((0.525 + 0.425) / 2)
    beaten = frontier((0.88, 0.3), (0.90, 0.6), (0.905, 0.1), (0.92, 0.2))  # level from 0.88 to 0.90
    assert beaten.best == [1, 3]
    assert beaten.mean(0.88, 0.92) == pytest.approx((0.6 + 0.4) / 2)
    assert (beaten.low, beaten.high) == (0.88, 0.92)
    assert frontier((0.9, 0.5), (0.9, 0.5), (0.9, 0.4)).best == [0]


def test_no_network_lies_above_its_frontier_and_the_frontier_falls():
    rng = np.random.default_rng(0)
    for _ in range(200):
        clean, robust = rng.integers(0, 8, (2, rng.integers(1, 7))) / 8
        found = Frontier(clean, robust)
        assert (found.at(clean) >= robust - 1e-12).all()
        heights = found.at(np.linspace(found.low, found.high, 50))
        assert (np.diff(heights) <= 1e-12).all()
        networks = list(zip(clean.tolist(), robust.tolist(), strict=True))
        unbeaten = [
            i
            for i, (c, r) in enumerate(networks)
            if not any(a >= c and b >= r and ((a, b) != (c, r) or j < i) for j, (a, b) in enumerate(networks))
        ]
        assert sorted(found.best) == unbeaten
        if found.high > found.low:  # the area by many thin strips
            edges = np.linspace(found.low, found.high, 20_001)
            strips = found.at((edges[1:] + edges[:-1]) / 2).mean()
            assert found.mean(found.low, found.high) == pytest.approx(strips, abs=1e-4)


def test_frontiers_are_compared_where_both_are_known():
    one, other = frontier((0.90, 0.6), (0.92, 0.2)), frontier((0.91, 0.3), (0.93, 0.1))
    assert common_range(one, other) == (0.91, 0.92)
    assert common_range(one, frontier((0.92, 0.2), (0.95, 0.1))) is None
    found = difference(([[0.90, 0.92]], [[0.6, 0.2]]), ([[0.91, 0.93]], [[0.3, 0.1]]))
    assert (found.low, found.high) == pytest.approx((0.91, 0.92))
    assert (found.first, found.second) == pytest.approx((0.3, 0.25))
    assert found.mean[:3] == (pytest.approx(0.05), None, None)
    assert found.middle.mean == pytest.approx(0.3 - 0.25)
    assert difference(([[0.90, 0.92]], [[0.6, 0.2]]), ([[0.95, 0.93]], [[0.3, 0.1]])) is None


def test_where_clean_accuracies_are_the_same_it_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    clean = np.tile([0.90, 0.91, 0.92], (6, 1))
    first, second = (np.array(falling) + rng.normal(0, 0.01, (6, 3)) for falling in ((0.6, 0.5, 0.2), (0.5, 0.3, 0.1)))
    found = difference((clean, first), (clean, second))
    gaps = first - second
    trapezes = ((gaps[:, 0] + gaps[:, 1]) / 2 + (gaps[:, 1] + gaps[:, 2]) / 2) / 2
    assert found.mean == pytest.approx(paired_t(trapezes.tolist()))
    assert found.middle == pytest.approx(paired_t(gaps[:, 1].tolist()))


def noisy(rng, seeds: int, shift: float = 0.0, strengths: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Networks on a straight frontier, 15 points of robust accuracy for one of clean, and their spread over seeds."""
    clean = np.linspace(0.89, 0.91, strengths)
    robust = 0.6 - 15 * (clean - 0.89) + shift
    return clean + rng.normal(0, 0.002, (seeds, strengths)), robust + rng.normal(0, 0.02, (seeds, strengths))


def test_the_jackknifes_standard_error_is_that_of_a_bootstrap_over_seeds():
    rng = np.random.default_rng(2)
    first, second = noisy(rng, 40, 0.02), noisy(rng, 40)
    found = difference(first, second)
    means = []
    for _ in range(400):
        drawn = rng.integers(0, 40, 40)  # the same seeds of both
        one, other = (Frontier(clean[drawn].mean(0), robust[drawn].mean(0)) for clean, robust in (first, second))
        low, high = common_range(one, other)
        means.append(one.mean(low, high) - other.mean(low, high))
    assert found.mean.half_width / t_quantile(39, 0.95) == pytest.approx(np.std(means), rel=0.15)
    assert found.mean.mean == pytest.approx(np.mean(means), abs=0.003)


@pytest.mark.parametrize(("seeds", "strengths_of_first"), [(3, 4), (5, 4), (5, 8)])
def test_intervals_cover_the_difference_of_the_true_frontiers(seeds, strengths_of_first):
    """The straight frontiers are 0.02 apart everywhere; 95% of 400 intervals, within 4 standard errors."""
    rng = np.random.default_rng(seeds)
    means, middles = [], []
    for _ in range(400):
        found = difference(noisy(rng, seeds, 0.02, strengths_of_first), noisy(rng, seeds))
        means.append(abs(found.mean.mean - 0.02) <= found.mean.half_width)
        middles.append(abs(found.middle.mean - 0.02) <= found.middle.half_width)
    for hits in (means, middles):
        assert abs(np.mean(hits) - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / 400)


def test_without_one_seed_there_may_be_no_common_range():
    first = [[0.90, 0.91], [0.90, 0.95]], [[0.6, 0.5], [0.6, 0.5]]
    second = [[0.92, 0.93], [0.92, 0.93]], [[0.6, 0.5], [0.6, 0.5]]
    found = difference(first, second)
    assert (found.low, found.high) == pytest.approx((0.92, 0.93))
    assert found.mean.half_width is None
    assert found.mean.seeds == 2


# From rows.


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    (found,) = settings(read(study(tmp_path_factory.mktemp("rows"))).runs)
    return found


def test_recipes_that_differ_in_numbers_of_their_own_are_strengths_of_one(measured):
    groups = {each.label: [recipe.label for recipe in each.recipes] for each in strengths(measured)}
    assert groups == {
        "Vanilla": ["Vanilla"],
        "AdvProp": ["AdvProp 1/255", "AdvProp 4/255", "AdvProp 8/255"],
        "EBN": ["EBN 1/255", "EBN 8/255"],
        "AdversarialTraining": ["AdversarialTraining 8/255"],
    }
    assert [column.name for column in robust_columns(measured)] == ["pgd strong l2 0.5"]


def test_another_rate_text_or_number_set_apart_makes_another_recipe(tmp_path):
    for i, (fields, training) in enumerate((
        ({"target": "random", "p": 0.1}, {}), ({"target": "random", "p": 0.2}, {}),
        ({"target": "untargeted", "p": 0.1}, {}), ({"target": "random", "p": 0.1}, {"lr": 0.05}),
    )):  # fmt: skip
        run(tmp_path / str(i), perturbing("AdvProp", 8, **fields), 0, 900, {"strong": 100}, **training)
    (setting,) = settings(read(tmp_path).runs)
    assert [(each.label, len(each.recipes)) for each in strengths(setting)] == [
        ("AdvProp, target random, lr 0.05", 1), ("AdvProp, target random, lr 0.1", 2),
        ("AdvProp, target untargeted, lr 0.1", 1),
    ]  # fmt: skip
    assert len(strengths(setting, ["p"])) == 4
    assert {"p", "target", "eps"} <= {*field_names([setting])}


def test_branches_that_share_make_another_recipe_and_older_runs_are_those_that_do_not(tmp_path):
    for eps, share in ((8, None), (4, "older"), (8, "affine"), (2, "affine")):
        folder = tmp_path / f"{eps}-{share}"
        run(folder, perturbing("AdvProp", eps), 0, 900, {"strong": 100})
        if share != "older":
            config = json.loads((folder / "config.json").read_text())
            config["experiment"]["share"] = share
            (folder / "config.json").write_text(json.dumps(config))
    (setting,) = settings(read(tmp_path).runs)
    found = {each.label: sorted(recipe.label for recipe in each.recipes) for each in strengths(setting)}
    assert found == {
        "AdvProp": ["AdvProp 4/255", "AdvProp 8/255"],
        "AdvProp, share affine": ["AdvProp 2/255, share affine", "AdvProp 8/255, share affine"],
    }


def test_the_table_compares_recipes_with_advprop(measured):
    table = frontier_table(measured)
    (row,) = table.rows
    cells = dict(zip(table.columns, row.cells, strict=True))
    assert row.label == "EBN \N{MINUS SIGN} AdvProp"
    assert cells["clean accuracy"].text == "90.50 to 92.00"
    # EBN falls from 0.40 + 0.01 by 0.1 a percent of clean accuracy, AdvProp from 0.55 through 0.5 to 0.2
    ebn, advprop = 0.41 - 0.10 * 0.75, (0.5 * 0.525 + 1.0 * 0.35) / 1.5
    assert cells["first"].value == pytest.approx(100 * ebn)
    assert cells["second"].value == pytest.approx(100 * advprop)
    half = t_quantile(2, 0.95) * 0.01 / math.sqrt(3)
    assert cells["difference"].value == pytest.approx(100 * (ebn - advprop))
    assert cells["difference"].high - cells["difference"].value == pytest.approx(100 * half)
    assert cells["at the middle"].value == pytest.approx(100 * (0.41 - 0.075 - (0.5 - 0.3 * 0.25)))


def test_recipes_without_a_clean_accuracy_in_common_are_named(tmp_path):
    for eps, clean in ((8, 900), (4, 910)):
        run(tmp_path / f"a{eps}", perturbing("AdvProp", eps), 0, clean, {"strong": 100})
        run(tmp_path / f"e{eps}", perturbing("EBN", eps), 0, clean - 20, {"strong": 80})
    (setting,) = settings(read(tmp_path).runs)
    ((row,),) = (frontier_table(setting).rows,)
    assert row.cells[1].text == "none in common: 88.00 to 89.00 and 90.00 to 91.00"
    assert not any(cell.text for cell in row.cells[2:])


def test_strengths_without_all_seeds_do_not_count(tmp_path):
    study(tmp_path)
    run(tmp_path / "lucky", perturbing("EBN", 2, through="easy"), 0, 920, {"strong": 200})
    (setting,) = settings(read(tmp_path).runs)
    (column,) = robust_columns(setting)
    _, advprop, ebn, adversarial = strengths(setting)
    assert len(ebn.recipes) == 3
    found = compare_strengths(ebn, advprop, column)
    assert found.first == pytest.approx(0.41 - 0.10 * 0.75)
    assert found.mean.seeds == 3
    assert compare_strengths(adversarial, advprop, column) is None
