"""What each attack broke: of all points, who was first."""

from collections.abc import Mapping

from ...json_files import Row
from ...perturb.eps import format_eps
from ...tables.aggregate import RecipeRuns, Setting
from ...tables.rows import RunRows
from ...tables.table import Cell, Table, TableRow
from ..charts import Shares, shares_chart
from ..page import Block, Figure, Key, Material, Section
from .eps_curves import Attack, attacks, called

LEFT, CLEAN = "robust", "wrong as it is"


def section(material: Material) -> Section:
    blocks = []
    for setting in material.settings:
        measured = [(attack, eps) for attack in attacks(setting) for eps in _radii(setting, attack)]
        figures, found = [], {}
        for attack, eps in measured:
            rows = {each.label: broke for each in setting.recipes if (broke := _broke(each, attack, eps))}
            if rows:
                title = f"{called(attack)} {format_eps(eps, attack[2])}"
                figures.append(_figure(title, rows, material))
                found[title] = rows
        if figures:
            blocks.append(Block("figures", setting.title, figures=figures))
            blocks.append(Block("table", table=_table(setting.title, found), folded=f"{setting.title}: the counts"))
    missing = "" if blocks else "No attack's own count is kept: easybn evaluate RUNS --attacks autoattack."
    lead = (
        "The share of points that each attack was the first to break, in the order in which they were run; what a "
        "smaller eps broke counts here too. All seeds together."
    )
    return Section("broken", "What each attack broke", lead if blocks else "", blocks, missing)


def _radii(setting: Setting, attack: Attack) -> list[float]:
    return sorted({round(float(row["eps"]), 9) for each in setting.recipes for row in _rows(each, attack)})


def _rows(recipe: RecipeRuns, attack: Attack) -> list[Row]:
    return [row for run in recipe.runs.values() for row in _of(run, attack)]


def _of(run: RunRows, attack: Attack) -> list[Row]:
    rows = [row for row in run.scores if row.get("broke") and row.get("eps")]
    return [row for row in rows if (row["attack"], row.get("protocol"), row["norm"]) == attack]


def _broke(recipe: RecipeRuns, attack: Attack, eps: float) -> dict[str, int]:
    """{what: points} over all seeds, of each the latest row; in the order of the attacks, what is left at the end."""
    latest = {}
    for seed, run in recipe.runs.items():
        for row in _of(run, attack):
            if abs(row["eps"] - eps) < 1e-8:
                latest[seed] = row
    out: dict[str, int] = {}
    for row in latest.values():
        for name, count in row["broke"].items():
            out[CLEAN if name == "clean" else name] = out.get(CLEAN if name == "clean" else name, 0) + count
    if out:
        out[LEFT] = sum(row["correct"] for row in latest.values())
    return out


def _names(rows: dict[str, dict[str, int]]) -> list[str]:
    names = list(dict.fromkeys(name for each in rows.values() for name in each if name not in (CLEAN, LEFT)))
    return [CLEAN, *names, LEFT]


def _figure(title: str, rows: dict[str, dict[str, int]], material: Material) -> Figure:
    names = _names(rows)
    shades = {CLEAN: "part-clean", LEFT: "part-left"} | {name: f"part{i}" for i, name in enumerate(names[1:-1])}
    bars = []
    for label, broke in rows.items():
        n = max(sum(broke.values()), 1)
        parts = [(name, broke.get(name, 0) / n) for name in names]
        bars.append(Shares(label, parts, material.colours.css_class(label)))
    keys = [Key(name, shade) for name, shade in shades.items()]
    return Figure(title, shares_chart(title, bars, shades), keys=sorted(keys, key=lambda key: names.index(key.label)))


def _table(title: str, found: Mapping[str, dict[str, dict[str, int]]]) -> Table:
    every = list(dict.fromkeys(name for rows in found.values() for name in _names(rows) if name not in (CLEAN, LEFT)))
    names = [CLEAN, *every, LEFT]
    lines = [
        TableRow(attack, [Cell(label), *(_count(broke.get(name)) for name in names)])
        for attack, rows in found.items()
        for label, broke in rows.items()
    ]
    return Table(title, "Attack", ["recipe", *names], lines, numeric=[False, *[True] * len(names)])


def _count(count: int | None) -> Cell:
    return Cell() if count is None else Cell(f"{count:,}", count)
