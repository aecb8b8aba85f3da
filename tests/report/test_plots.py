"""Figures of --plot: what their artists show against means and intervals worked out here, and files that are stable."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from easybn.report.plot_file import draw, our_settings, write_plot
from easybn.report.plots import evaluation_plot, frontier_plot, table_plot
from easybn.tables.aggregate import settings
from easybn.tables.rows import read

from ..tables import strengths
from .made_up import study

ROOT = Path(__file__).parents[2]
Z = stats.norm.ppf(0.975)


def found_in(folder: Path):
    return settings(read(folder).runs)


def drawn(plot, dark=False):
    """The figure, and of each panel the curves (x, y), the intervals {(x, low, high)} and the words at points."""
    with our_settings(dark):
        figure = draw(plot, dark)
    panels = []
    every: Any = figure.axes
    for axes in every:
        curves, up, wide = {}, {}, {}
        for line in axes.lines:
            curves.setdefault(line.get_label(), []).append(np.array(line.get_data()).T)
        for collection in axes.collections:
            for (x, y), (x2, y2) in collection.get_segments():
                (up if x == x2 else wide).setdefault(collection.get_label(), []).append((x, y, x2, y2))
        panels.append((axes, curves, up, wide, {(text.xy, text.get_text()) for text in axes.texts}))
    return figure, panels


def over_seeds(shares: list[float], n: int) -> tuple[float, float, float]:
    """Mean and t interval in %; the standard deviation is at least that of rounding to 1 / n."""
    spread = max(np.std(shares, ddof=1), 1 / n / math.sqrt(12))
    half = stats.t.ppf(0.975, len(shares) - 1) * spread / math.sqrt(len(shares))
    mean = np.mean(shares)
    return 100 * mean, 100 * max(0, mean - half), 100 * min(1, mean + half)


def wilson(correct: int, n: int) -> tuple[float, float, float]:
    share = correct / n
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n * n))
    return 100 * share, 100 * (middle - half), 100 * (middle + half)


def test_accuracy_over_eps_with_intervals_over_seeds(tmp_path):
    folder = study(tmp_path / "runs", ("vanilla", "ebn"), 3)
    plot = table_plot(found_in(folder))
    figure, panels = drawn(plot)
    assert figure.get_size_inches()[0] == pytest.approx(6.9)
    rows = {
        (path.parent.name, i): row
        for path in sorted(folder.rglob("scores.jsonl"))
        for i, row in enumerate(map(json.loads, path.read_text().splitlines()))
    }
    titles = [axes.get_title() for axes, *_ in panels]
    [(axes, curves, up, _, _)] = [panel for panel in panels if panel[0].get_title() == "PGD (strong), l2"]
    assert "AutoAttack, l-infinity" in titles
    assert axes.get_xlabel() == "eps, l2"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.1", "0.5", "1"]
    assert set(curves) == {"Vanilla", "EBN 8/255"}
    for label, name in (("Vanilla", "vanilla"), ("EBN 8/255", "ebn")):
        mine = [row for (run, _), row in rows.items() if run.rpartition("-")[0].endswith(name)]
        by_eps = {}
        for row in mine:
            if row["attack"] == "clean" or (row["attack"], row.get("protocol"), row["norm"]) == ("pgd", "strong", "l2"):
                by_eps.setdefault(row["eps"] or 0.0, []).append(row)
        expected = {
            eps: over_seeds([row["correct"] / row["n"] for row in of], of[0]["n"]) for eps, of in by_eps.items()
        }
        assert all(len(of) == 3 for of in by_eps.values())
        [points] = curves[label]
        assert points == pytest.approx(np.array([(eps, expected[eps][0]) for eps in sorted(expected)]))
        ends = np.array([(eps, expected[eps][1], eps, expected[eps][2]) for eps in sorted(expected)])
        assert np.array(up[label]) == pytest.approx(ends)


def test_the_recipes_colours_on_light_and_on_dark_pages(tmp_path):
    plot = table_plot(found_in(study(tmp_path / "runs", ("vanilla", "ebn"), 1)))
    for dark, colours in ((False, ("#66707c", "#0069a8")), (True, ("#a9b4c0", "#62b6f7"))):
        figure, panels = drawn(plot, dark)
        lines = {line.get_label(): line for line in panels[0][0].lines}
        assert (lines["Vanilla"].get_color(), lines["EBN 8/255"].get_color()) == colours
        assert len({line.get_marker() for line in lines.values()}) == len(lines)  # not by colour alone
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["Vanilla", "EBN 8/255"]


def test_a_frontier_with_its_strengths_by_name(tmp_path):
    plot = frontier_plot(found_in(strengths.study(tmp_path / "runs")))
    _, panels = drawn(plot)
    [(axes, curves, up, wide, words)] = panels  # not the paper's own PGD
    assert axes.get_title() == "PGD (strong), l2 0.5"
    marks, frontier = curves["AdvProp"]
    assert sorted(map(tuple, marks)) == [(0.9, 60.0), (0.91, 50.0), (0.92, 20.0)]
    assert frontier == pytest.approx(np.array([(0.9, 60), (0.91, 50), (0.92, 20)]))
    assert curves["EBN"][1] == pytest.approx(np.array([(0.905, 41), (0.925, 21)]))
    assert len(curves["Vanilla"]) == len(curves["AdversarialTraining"]) == 1  # one strength: no curve, no name
    mean, low, high = over_seeds([0.40, 0.41, 0.42], 200)
    assert (0.905, low, 0.905, high) in [pytest.approx(each) for each in up["EBN"]]
    _, low, high = over_seeds([0.905] * 3, 1000)
    assert (low / 100, mean, high / 100, mean) in [pytest.approx(each) for each in wide["EBN"]]
    names = {(x, y, text) for (x, y), text in words}
    assert {(0.9, 60.0, "8/255"), (0.91, 50.0, "4/255"), (0.92, 20.0, "1/255")} <= names
    assert len(names) == 5


def test_names_of_strengths_cover_nothing():
    plot = frontier_plot(found_in(ROOT / "results/easy/screening"))
    figure, panels = drawn(plot)
    for axes, curves, *_ in panels:
        marks = [xy for parts in curves.values() for xy in axes.transData.transform(parts[0])]
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) >= 10
        assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]
        assert not [1 for box in boxes for x, y in marks if box.contains(x, y)]
        edges = axes.get_window_extent().padded(5)  # a mark reaches as far beyond
        assert all(edges.containsx(x) and edges.containsy(y) for box in boxes for x, y in box.get_points())
        assert {"8/255", "4/255"} < {text.get_text() for text in axes.texts}
        assert max(map(len, (text.get_text() for text in figure.legends[0].get_texts()))) < 40


def score(attack="pgd", n=200, correct=100, eps=0.5, protocol="strong", norm="l2", **more):
    return {"attack": attack, "n": n, "correct": correct, "eps": eps, "protocol": protocol, "norm": norm, **more}


CLEAN = score("clean", 1000, 913, None, None, None)


def test_one_radius_of_one_evaluation_shows_its_values():
    figure, [(axes, curves, up, _, words)] = drawn(evaluation_plot({"runs/ebn": [CLEAN, score(correct=83)]}))
    assert figure.get_size_inches()[0] == pytest.approx(3.35)
    [name] = curves
    assert name == "PGD (strong), l2"
    both = wilson(913, 1000), wilson(83, 200)
    assert curves[name][0] == pytest.approx(np.array([(0, both[0][0]), (0.5, both[1][0])]))
    assert np.array(up[name]) == pytest.approx(
        np.array([(0, *both[0][1:2], 0, both[0][2]), (0.5, both[1][1], 0.5, both[1][2])])
    )
    assert {text for _, text in words} == {"91.3", "41.5"}
    assert axes.get_ylim() == (0, 100)


def test_a_curve_for_each_attack_or_a_panel_for_each_and_a_curve_for_each_model():
    weak = [score(protocol="robustness", correct=120 - 10 * i, eps=eps) for i, eps in enumerate((0.1, 0.5, 1.0))]
    rows = [CLEAN, *weak, *(row | {"protocol": "strong", "correct": row["correct"] - 7} for row in weak)]
    _, [(axes, curves, _, _, words)] = drawn(evaluation_plot({"runs/ebn": rows}))
    assert {name: curve[0][:, 1].tolist() for name, curve in curves.items()} == {
        "PGD (as the library robustness), l2": pytest.approx([91.3, 60, 55, 50]),
        "PGD (strong), l2": pytest.approx([91.3, 56.5, 51.5, 46.5]),
    }
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.1", "0.5", "1"]
    assert not words
    _, panels = drawn(evaluation_plot({"a": rows, "b": rows}))
    assert [axes.get_title() for axes, *_ in panels] == ["PGD (as the library robustness), l2", "PGD (strong), l2"]
    assert all(set(curves) == {"a", "b"} for _, curves, *_ in panels)


def test_the_interval_of_an_audit_may_end_below_the_bound_of_fast():
    audit = {"survivors": 120, "drawn": 60, "broke_drawn": 30, "broke": {"apgd-t": 30}}  # so that some 60 would be left
    rows = [CLEAN, score("fast", 200, 90, 8 / 255, None, "linf", audit=audit)]
    _, [(_, curves, up, *_)] = drawn(evaluation_plot({"m": rows}))
    [name] = curves
    assert name == "fast (an upper bound), l-infinity"
    assert curves[name][0][1, 1] == 45
    assert 30 < up[name][1][3] < 45


def test_words_choose_panels(tmp_path):
    plot = table_plot(found_in(study(tmp_path / "runs", ("ebn",), 1)))
    assert [title for title, _ in plot.only(["STRONG"]).panels] == ["PGD (strong), l2"]
    assert plot.only([]).panels == plot.panels
    with pytest.raises(ValueError, match="--panels weak: no panel is called so; there are PGD"):
        plot.only(["strong", "weak"])


def test_the_same_rows_give_the_same_file_with_its_numbers_whatever_the_users_settings_are(tmp_path):
    plot = table_plot(found_in(study(tmp_path / "runs", ("vanilla", "ebn"), 2))).only(["strong"])
    for kind in ("svg", "png", "pdf"):
        write_plot(plot, tmp_path / f"a.{kind}")
        with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "svg.hashsalt": None}):
            write_plot(plot, tmp_path / f"b.{kind}")
            assert matplotlib.rcParams["font.size"] == 20
        content = (tmp_path / f"a.{kind}").read_bytes()
        assert content == (tmp_path / f"b.{kind}").read_bytes()
        assert b"Date" not in content
        assert b"dc:date" not in content
    top = ET.fromstring((tmp_path / "a.svg").read_text())
    [told] = top.iter("{http://purl.org/dc/elements/1.1/}description")
    assert json.loads(told.text) == plot.numbers
    assert {"PGD (strong), l2", "Vanilla", "accuracy, %"} <= {
        each.text for each in top.iter("{http://www.w3.org/2000/svg}text")
    }
    with Image.open(tmp_path / "a.png") as picture:
        assert json.loads(picture.info["Description"]) == plot.numbers
        assert picture.width == pytest.approx(3.35 * 300, abs=1)
        assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    [panel] = plot.numbers
    [vanilla, _] = panel["curves"]
    assert vanilla["points"][0] == {"x": 0.0, "y": 0.92025, "low": pytest.approx(0.92025 - 0.003177, abs=1e-6),
                                    "high": pytest.approx(0.92025 + 0.003177, abs=1e-6)}  # fmt: skip
