"""Which recipes are compared, and the paired tests between them."""

import json
import math

import pytest

from easybn.paper.columns import OURS, STRONG
from easybn.stats import mcnemar, t_quantile
from easybn.tables.aggregate import settings
from easybn.tables.comparison import compare, differences_table, pairs, signed
from easybn.tables.rows import CLEAN, read

from ..report.made_up import run, study

HALF = t_quantile(2, 0.95) / math.sqrt(3)  # times s


def test_differences_over_seeds_and_over_points(setting):
    vanilla, advprop, ebn, _ = setting.recipes
    found = compare(ebn, advprop, CLEAN)  # -1.20, -1.18 and -1.16 points
    assert found.seed_test.mean == pytest.approx(-0.0118)
    assert found.seed_test.half_width == pytest.approx(0.0002 * HALF)
    assert found.point_test == (0, 120 + 118 + 116, mcnemar(0, 354), 3)
    assert compare(ebn, advprop, STRONG[0]).point_test is None
    assert compare(ebn, advprop, STRONG[2]).saturated
    assert not compare(ebn, vanilla, STRONG[1]).saturated


def test_other_numbers_of_points_are_not_compared(tmp_path):
    study(tmp_path, ("vanilla", "ebn"))
    path = tmp_path / "ebn-1" / "scores.jsonl"
    path.write_text(path.read_text().replace('"n": 10000', '"n": 9999'))
    (setting,) = settings(read(tmp_path).runs)
    assert compare(setting.recipes[1], setting.recipes[0], CLEAN).seed_test.seeds == 2


def test_ebn_meets_advprop_of_its_own_radius_and_rate(tmp_path):
    for name, recipe, lr in (("v", "vanilla", 0.1), ("a", "advprop", 0.1), ("b", "advprop", 0.05), ("e", "ebn", 0.1)):
        run(tmp_path / name, recipe, 0, lr=lr)
    (setting,) = settings(read(tmp_path).runs)
    found = [(first.label, second.label) for first, second in pairs(setting)]
    assert found[0] == ("EBN 8/255", "AdvProp 8/255, lr 0.1")
    assert {second for _, second in found[1:]} == {"Vanilla"}
    assert len(found) == 4


def test_a_recipe_without_some_images_meets_itself_and_those_without_the_same(tmp_path):
    for name, kind, path, digest in (
        ("a", "vanilla", None, None),
        ("b", "vanilla", "x/easy-3.json", "11"),
        ("c", "vanilla", "x/random-3.json", "22"),
        ("d", "ebn", "elsewhere/easy-3.json", "11"),  # the same images from a file that lies elsewhere
        ("e", "ebn", None, None),
    ):
        run(tmp_path / name, kind, 0)
        path_of = tmp_path / name / "config.json"
        config = json.loads(path_of.read_text())
        config["experiment"] |= {"leave_out": path, "left_out": digest}
        path_of.write_text(json.dumps(config))
    (found,) = settings(read(tmp_path).runs)
    easy, chance, ebn = "Vanilla, without easy-3", "Vanilla, without random-3", "EBN 8/255"
    assert {(first.label, second.label) for first, second in pairs(found)} == {
        (ebn, "Vanilla"),
        (f"{ebn}, without easy-3", easy),
        (easy, "Vanilla"),
        (chance, "Vanilla"),
        (easy, chance),
        (f"{ebn}, without easy-3", ebn),
    }


def test_the_tests_as_a_table(setting):
    table = differences_table(setting, OURS)
    (line,) = [
        line
        for line in table.rows
        if line.label == "EBN 8/255 \N{MINUS SIGN} AdvProp 8/255" and line.cells[0].text == "Basic"
    ]
    assert [cell.text for cell in line.cells] == [
        "Basic",
        "3",
        f"\N{MINUS SIGN}1.18 ±{0.02 * HALF:.2f}",
        "<0.001",
        "0",
        "354",
        "<0.001",
    ]


def test_signs():
    assert [signed(value) for value in (1.234, -0.5, 0.001, -0.001)] == ["+1.23", "\N{MINUS SIGN}0.50", "0.00", "0.00"]
