#!/usr/bin/env python3
"""The tables of docs/easy.md, from the rows in results/easy: python bench/easy.py [--write]."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from marked import Parts, write

from easybn.json_files import read_rows
from easybn.paper.tables import paper_table
from easybn.tables.aggregate import Setting, settings
from easybn.tables.formats import markdown
from easybn.tables.frontier import frontier_table
from easybn.tables.rows import read
from easybn.tables.table import Table

AT_8 = "AdvProp 8/255, clean_weight 0.5, adv_weight 0.5"
TREND = {  # of the screening: p, and the row's label
    "0": AT_8,
    **{
        p: f"MixedProp 8/255, p {p}, share nothing, clean_weight 0.5"
        for p in ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.8", "1")
    },
}
INSIDE = {  # of the screening: a network, and what it is called on the page
    "vanilla-0": "Vanilla", "advprop-8-0": "AdvProp", "mixed-0.1-8-share-affine-0": "p 0.1, shared affine",
    "mixed-1.0-8-0": "EBN (p 1)", "adversarial-0": "AdversarialTraining",
}  # fmt: skip
FOUND = {  # instrument, measure, series and place of a row, and what it is called
    ("linearity", "nonlinearity", "cross-entropy", "linf 8/255"):
        "how far the loss departs from its tangent, linf 8/255 (median)",
    ("boundary", "distance_linf", "", "adversarial"): "distance to the boundary along the gradient, linf (median)",
    ("between", "position_between_classes", "adversarial copies", "logits"):
        "where adversarial copies lie in the logits: 0 own class, 1 the next",
    ("latent", "cka", "adversarial copies", "logits"): "CKA of clean images and adversarial copies, logits",
    ("rank", "effective_rank_of_channels", "main", "network.stages.2.0"): "effective rank of channels, last block",
}  # fmt: skip


def settings_of(study: str, results: Path) -> list[Setting]:
    """The settings (data, network, epochs) of a study's rows."""
    return settings(read(results / "easy" / study).runs)


def recipes(setting: Setting) -> str:
    """A line for each recipe of a setting, without the paper's own figures."""
    table = paper_table(setting)
    return lines(replace(table, rows=[line for line in table.rows if not line.muted]))


def lines(table: Table) -> str:
    """The table alone, without its title and caption."""
    return "\n".join(line for line in markdown(table).splitlines() if line.startswith("|"))


def all_recipes(study: str, results: Path) -> str:
    """Of every setting of a study the table of its recipes; with several, each under its title."""
    found = settings_of(study, results)
    return "\n\n".join(recipes(each) if len(found) == 1 else f"**{each.title}**\n\n{recipes(each)}" for each in found)


def frontiers(study: str, apart: tuple[str, ...], results: Path) -> str:
    """The frontier of every recipe against AdvProp's."""
    (setting,) = settings_of(study, results)
    return lines(frontier_table(setting, apart))


def trend(results: Path) -> str:
    """Accuracies over p, the share of AdvProp's targets that are the true class."""
    (setting,) = settings_of("screening", results)
    table = paper_table(setting)
    rows = {line.label: [cell.text.partition(" ±")[0] for cell in line.cells] for line in table.rows}
    columns = zip(table.columns, zip(*(rows[label] for label in TREND.values()), strict=True), strict=True)
    body = [f"| {column.removesuffix(' strong')} | {' | '.join(cells)} |" for column, cells in columns]
    return "\n".join([f"| p | {' | '.join(TREND)} |", "| --- |" + " ---: |" * len(TREND), *body])


def inside(results: Path) -> str:
    """What the instruments of ``easybn analyse`` say of five networks of the screening."""
    rows = [read_rows(results / "easy/screening" / run / "analysis.jsonl") for run in INSIDE]
    body = []
    for (instrument, *what), title in FOUND.items():
        cells = []
        for of_run in rows:
            (row,) = (row for row in of_run if row["instrument"] == instrument
                      and [row["measure"], row["series"], row["place"]] == what)  # fmt: skip
            cells.append(f"{row['value']:.3g} ({row['low']:.3g} to {row['high']:.3g})")
        body.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([f"| | {' | '.join(INSIDE.values())} |", "| --- |" + " ---: |" * len(INSIDE), *body])


def part(make: Callable[[Path], str]) -> Callable[[Path], str]:
    """Of a table: the text for between the marks, apart from them by an empty line, as Markdown wants it."""
    return lambda results: f"\n{make(results)}\n"


PARTS: Parts = {
    ("easy.md", name): part(make)
    for name, make in {
        "shared-affine recipes": partial(all_recipes, "shared-affine"),
        "shared-affine frontiers": partial(frontiers, "shared-affine", ("p",)),
        "screening recipes": partial(all_recipes, "screening"),
        "screening frontiers": partial(frontiers, "screening", ()),
        "trend": trend,
        "inside": inside,
    }.items()
}

if __name__ == "__main__":
    sys.exit(write(PARTS, "bench/easy.py", "The tables of docs/easy.md, from the rows in results/easy."))
