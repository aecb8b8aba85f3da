"""Robust accuracy against eps, one curve a recipe."""

from collections.abc import Sequence
from typing import Any

from ...perturb.eps import format_eps
from ...stats import accuracy_interval, aggregate
from ...tables.aggregate import RecipeRuns, Setting
from ...tables.rows import CLEAN
from ..charts import Chart, Point, Series
from ..page import Block, Figure, Material, Section, legend

MAKES = {
    "l2": "easybn evaluate RUNS --eps 0.1 0.5 1.0",
    "linf": "easybn evaluate RUNS --attacks autoattack --norm linf --eps 2/255 4/255 8/255",
}
NAMES = {"l2": "l2", "linf": "l-infinity"}
Attack = tuple[str, str | None, str]


def section(material: Material) -> Section:
    blocks = [block for setting in material.settings if (block := _block(setting, material))]
    norms = {attack[2] for setting in material.settings for attack in attacks(setting)}
    absent = [f"No rows in {NAMES[norm]}: {makes}." for norm, makes in MAKES.items() if norm not in norms]
    lead = (
        "Accuracy left when every image may be moved by up to eps; at eps 0 it is clean accuracy, on all test images. "
        "Bands: 95% intervals of the mean over seeds; of a single seed, those of the test images drawn (Wilson)."
    )
    return Section("eps", "Robust accuracy against eps", lead if blocks else "", blocks, " ".join(absent))


def attacks(setting: Setting) -> list[Attack]:
    """(attack, protocol, norm) of everything that was measured in a setting, l2 first."""
    rows = [row for each in setting.recipes for run in each.runs.values() for row in run.scores]
    found = {(row["attack"], row.get("protocol"), row["norm"]) for row in rows if row.get("eps")}
    return sorted(found, key=lambda each: (each[2], each[0] != "pgd", str(each[1]), each[0]))


def called(attack: Attack) -> str:
    """``PGD (strong), l2``"""
    name, protocol, norm = attack
    names = {"pgd": "PGD", "autoattack": "AutoAttack"}
    told = {"robustness": " (as the library robustness)", "standard": ""}.get(str(protocol), f" ({protocol})")
    return f"{names.get(name, name)}{told if protocol else ''}, {NAMES.get(norm, norm)}"


def curve(recipe: RecipeRuns, attack: Attack) -> list[Point]:
    """From clean accuracy on, a point a radius."""
    of: dict[float, dict[int, Any]] = {0.0: dict(recipe.scores(CLEAN))}
    for seed, run in recipe.runs.items():
        for row in run.scores:
            if row.get("eps") and (row["attack"], row.get("protocol"), row["norm"]) == attack:
                of.setdefault(round(float(row["eps"]), 9), {})[seed] = row
    return [_point(eps, list(rows.values())) for eps, rows in sorted(of.items()) if rows]


def _point(eps: float, rows: Sequence[dict[str, Any]]) -> Point:
    found = aggregate([row["correct"] / row["n"] for row in rows], resolution=1 / rows[0]["n"])
    if found.half_width is None:
        return Point(eps, found.mean, *accuracy_interval(rows[0]["correct"], rows[0]["n"]))
    return Point(eps, found.mean, max(0.0, found.mean - found.half_width), min(1.0, found.mean + found.half_width))


def _block(setting: Setting, material: Material) -> Block | None:
    figures = []
    colours = material.colours
    for attack in attacks(setting):
        series = []
        for each in setting.recipes:
            points = curve(each, attack)
            if any(point.x for point in points):
                series.append(Series(each.label, points, colours.css_class(each), colours.dash(each)))
        ticks = sorted({point.x for each in series for point in each.points})
        title = called(attack)
        figures.append(Figure(title, Chart(
            f"{setting.title}: {title}", "eps", "accuracy, %", series, (0.0, 1.0),
            [(tick, "0" if tick == 0 else format_eps(tick, attack[2])) for tick in ticks], percent=True,
        ).svg()))  # fmt: skip
    return Block("figures", setting.title, figures=figures, legend=legend(setting, colours)) if figures else None
