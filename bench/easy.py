#!/usr/bin/env python3
"""The tables of docs/easy.md, from the rows in results/easy: python bench/easy.py [--write]."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from marked import Parts, write

from easybn.json_files import read_rows
from easybn.metrics.instrument import with_half_width
from easybn.paper.tables import paper_table
from easybn.stats import PairedT
from easybn.tables.aggregate import Setting, settings
from easybn.tables.analysis import over_seeds
from easybn.tables.comparison import compare
from easybn.tables.deciles import decile_tables, latest
from easybn.tables.formats import markdown
from easybn.tables.frontier import compare_strengths, frontier_table, robust_columns, strengths
from easybn.tables.rows import CLEAN, Column, read
from easybn.tables.table import Table

NONE = "Not run yet."
AT_8 = "AdvProp 8/255, clean_weight 0.5, adv_weight 0.5"
TREND = {  # of the screening: p, and the row's label
    "0": AT_8,
    **{
        p: f"MixedProp 8/255, p {p}, share nothing, clean_weight 0.5"
        for p in ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.8", "1")
    },
}
INSIDE = {  # of shared-affine: networks of three seeds, and what they are called on the page
    "vanilla": "Vanilla", "ebn-8": "EBN 8/255", "advprop-8": "AdvProp 8/255", "affine-0.1-6": "shared affine, p 0.1",
    "light-0.1": "LightAdversarial 0.1",
}  # fmt: skip
SEEDS = (2, 3, 4)
TENTHS = {  # of shared-affine: labels of recipes, and what they are called on the page
    "Vanilla": "Vanilla", "EBN 8/255": "EBN 8/255", "AdvProp 8/255": "AdvProp 8/255",
    "MixedProp 6/255, p 0.1": "shared affine, p 0.1",
    "GapEBN 8/255, clean_weight 0.9, adv_weight 0.1": "LightAdversarial 0.1",
}  # fmt: skip
LIGHT = "LightAdversarialTraining 8/255"
PAIRS = {  # of a study: labels of two recipes
    "shared-affine": [
        ("MixedProp 6/255, p 0.1", "AdvProp 8/255"),
        ("MixedProp 6/255, p 0", "AdvProp 8/255"),
        ("MixedProp 6/255, p 0.1", "MixedProp 6/255, p 0"),
        ("GapEBN 8/255, clean_weight 0.9, adv_weight 0.1", "AdvProp 16/255"),
        ("GapEBN 8/255, clean_weight 0.95, adv_weight 0.05", "MixedProp 6/255, p 0.1"),
        ("GapEBN 8/255, clean_weight 0.9, adv_weight 0.1", "MixedProp 6/255, p 0.1"),
        ("AdvProp 12/255", "AdvProp 8/255"),
        ("AdvProp 16/255", "AdvProp 12/255"),
        ("EBN 8/255", "AdvProp 8/255"),
        ("AdvProp 8/255", "Vanilla"),
    ],
    "cifar10": [
        ("AdvProp 2/255, share affine", "AdvProp 2/255"),
        ("AdvProp 4/255, share affine", "AdvProp 8/255"),
        ("MixedProp 2/255", "AdvProp 2/255"),
        ("MixedProp 4/255", "AdvProp 8/255"),
        ("MixedProp 2/255", "AdvProp 2/255, share affine"),
        ("MixedProp 4/255", "AdvProp 4/255, share affine"),
        ("MixedProp 4/255", "PartlyClean 4/255"),
        ("PartlyClean 4/255", "AdvProp 4/255, share affine"),
        (f"{LIGHT}, clean_weight 0.97, adv_weight 0.03", "AdvProp 2/255, share affine"),
        (f"{LIGHT}, clean_weight 0.9, adv_weight 0.1", "AdvProp 4/255, share affine"),
        (f"{LIGHT}, clean_weight 0.9, adv_weight 0.1", "AdvProp 8/255"),
        ("AdvProp 2/255, share affine", "Vanilla"),
        ("MixedProp 2/255", "Vanilla"),
        ("AdvProp 2/255", "Vanilla"),
        ("AdvProp 8/255", "Vanilla"),
    ],
    "length": [  # at 9 epochs
        ("MixedProp 6/255", "AdvProp 8/255"),
        (LIGHT, "AdvProp 8/255"),
        ("MixedProp 8/255", "Vanilla"),
        ("AdvProp 8/255", "Vanilla"),
    ],
    "clean-tier": [
        ("MixedProp 6/255", "Vanilla"),
        ("MixedProp 6/255", "AdvProp 6/255"),
        (LIGHT, "Vanilla"),
        (LIGHT, "AdvProp 6/255"),
        ("AdvProp 6/255", "Vanilla"),
    ],
}
LENGTH = {  # runs of length (at 1 and 9 epochs) and of shared-affine (at 3), of one seed
    "vanilla": ("Vanilla", "vanilla"),
    "advprop-8": ("AdvProp 8/255", "advprop-8"),
    "mixed-1.0-8": ("EBN 8/255", "ebn-8"),
    "affine-0.1-6": ("shared affine, p 0.1, 6/255", "affine-0.1-6"),
    "light-0.1": ("LightAdversarial 0.1", "light-0.1"),
}
KEYS = ("instrument", "measure", "series", "place")
FOUND = {  # instrument, measure, series and place of a row, and what it is called
    ("linearity", "nonlinearity", "cross-entropy", "linf 8/255"):
        "how far the loss departs from its tangent, linf 8/255 (median)",
    ("boundary", "distance_linf", "", "adversarial"): "distance to the boundary along the gradient, linf (median)",
    ("clever", "clever", "linf", "mean CLEVER score"): "mean CLEVER score, linf (20 images)",
    ("clever", "clever", "linf", "mean distance of found adversarials"):
        "mean distance of adversarial images that FAB found, linf (the same)",
    ("between", "position_between_classes", "adversarial copies", "logits"):
        "where adversarial copies lie in the logits: 0 own class, 1 the next",
    ("latent", "cka", "adversarial copies", "logits"): "CKA of clean images and adversarial copies, logits",
    ("rank", "effective_rank_of_channels", "main", "network.stages.2.0"): "effective rank of channels, last block",
}  # fmt: skip


def settings_of(study: str, results: Path) -> list[Setting]:
    """The settings (data, network, epochs) of a study's rows; none if it has not been run."""
    folder = results / "easy" / study
    return settings(read(folder).runs) if folder.exists() else []


def recipes(setting: Setting) -> str:
    """A line for each recipe of a setting, without the paper's own figures."""
    table = paper_table(setting)
    return lines(replace(table, rows=[line for line in table.rows if not line.muted]))


def lines(table: Table) -> str:
    """The table alone, without its title and caption."""
    return "\n".join(line for line in markdown(table).splitlines() if line.startswith("|"))


def all_recipes(study: str, results: Path) -> str:
    """Of every setting of a study the table of its recipes; with several, each under its title."""
    if not (found := settings_of(study, results)):
        return NONE
    return "\n\n".join(recipes(each) if len(found) == 1 else f"**{each.title}**\n\n{recipes(each)}" for each in found)


def frontiers(study: str, apart: tuple[str, ...], results: Path) -> str:
    """The frontier of every recipe against AdvProp's."""
    return "\n\n".join(lines(frontier_table(each, apart)) for each in settings_of(study, results)) or NONE


def _points(test: PairedT | None) -> str:
    """A difference in points, with the half-width of its interval if there is one; an empty cell for none."""
    if test is None:
        return ""
    half = "" if test.half_width is None else f" ±{100 * test.half_width:.2f}"
    return f"{100 * test.mean:+.2f}{half}".replace("-", "\N{MINUS SIGN}")


def apart_from_sharing(results: Path) -> str:
    """CIFAR-10: two frontiers beside that of AdvProp with shared affine parameters, in points."""
    if not (found := settings_of("cifar10", results)):
        return NONE
    of = {each.label: each for each in strengths(found[0], ("p",))}
    columns = robust_columns(found[0])
    body = []
    for first in ("MixedProp", "LightAdversarialTraining"):
        compared = [compare_strengths(of[first], of["AdvProp, share affine"], column) for column in columns]
        cells = [_points(each.mean if each else None) for each in compared]
        body.append(f"| {first} | {' | '.join(cells)} |")
    heads = " | ".join(f"l2 {column.eps:g}" for column in columns)
    return "\n".join([f"| frontier, minus that of AdvProp, share affine | {heads} |", "| --- | ---: | ---: |", *body])


def pairs(study: str, results: Path) -> str:
    """Differences of two recipes, paired by seed, in points."""
    if not (found := settings_of(study, results)):
        return NONE
    setting = found[-1]  # the longest training, where there are several
    of = {recipe.label: recipe for recipe in setting.recipes}
    columns = [CLEAN, *(column for column in robust_columns(setting) if column.attack == "pgd")]
    heads = ["clean", *(f"l2 {column.eps:g}" for column in columns[1:])]
    body = []
    for first, second in PAIRS[study]:
        tests = [compare(of[first], of[second], column).seed_test for column in columns]
        cells = [_points(test) for test in tests]
        seeds = min(test.seeds for test in tests if test)
        body.append(f"| {first} \N{MINUS SIGN} {second} | {' | '.join(cells)} | {seeds} |")
    return "\n".join(
        [
            f"| First \N{MINUS SIGN} second | {' | '.join(heads)} | seeds |",
            "| --- |" + " ---: |" * (len(heads) + 1),
            *body,
        ]
    )


def length(results: Path) -> str:
    """Accuracies of one seed after trainings of 1, 3 and 9 epochs."""
    if not (results / "easy/length").exists():
        return NONE
    runs = {run.name: run for study in ("length", "shared-affine") for run in read(results / "easy" / study).runs}
    columns = [CLEAN, *(Column("", "pgd", "strong", "l2", eps) for eps in (0.5, 1.0))]
    body = []
    for name, (title, at_3) in LENGTH.items():
        trained = [runs[f"{name}-epochs-1-2"], runs[f"{at_3}-2"], runs[f"{name}-epochs-9-2"]]
        rows = [[row for row in run.scores if column.shows(row)][-1] for column in columns for run in trained]
        cells = [f"{100 * row['correct'] / row['n']:.2f}" for row in rows]
        body.append(f"| {title} | {' | '.join(cells)} |")
    heads = [
        f"{what}, {epochs} epoch{'s' * (epochs > 1)}" for what in ("clean", "l2 0.5", "l2 1") for epochs in (1, 3, 9)
    ]
    return "\n".join([f"| | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads), *body])


def along(instrument: str, results: Path) -> str:
    """What an instrument says of the networks after some epochs of a training of 9."""
    folder, epochs = results / "easy/length", (1, 3, 5, 7, 9)
    if not folder.exists():
        return NONE
    (measured,) = (what for what in FOUND if what[0] == instrument)
    body = []
    for name, (title, _) in LENGTH.items():
        rows = read_rows(folder / f"{name}-epochs-9-2" / "analysis.jsonl")
        of = {row.get("epoch"): row for row in rows if measured == tuple(row[key] for key in KEYS)}
        cells = [with_half_width(of[epoch]["value"], of[epoch]["high"] - of[epoch]["value"]) for epoch in epochs]
        body.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([f"| after epoch | {' | '.join(map(str, epochs))} |", "| --- |" + " ---: |" * len(epochs), *body])


def trend(results: Path) -> str:
    """Accuracies over p, the share of AdvProp's targets that are the true class."""
    (setting,) = settings_of("screening", results)
    table = paper_table(setting)
    rows = {line.label: [cell.text.partition(" ±")[0] for cell in line.cells] for line in table.rows}
    columns = zip(table.columns, zip(*(rows[label] for label in TREND.values()), strict=True), strict=True)
    body = [f"| {column.removesuffix(' strong')} | {' | '.join(cells)} |" for column, cells in columns]
    return "\n".join([f"| p | {' | '.join(TREND)} |", "| --- |" + " ---: |" * len(TREND), *body])


def inside(results: Path) -> str:
    """What the instruments of ``easybn analyse`` say of the networks of five recipes, over three seeds."""
    folder = results / "easy/shared-affine"
    body = []
    for (instrument, *what), title in FOUND.items():
        cells = []
        for recipe in INSIDE:
            runs = [read_rows(folder / f"{recipe}-{seed}" / "analysis.jsonl") for seed in SEEDS]
            of_instrument = [[row for row in rows if row["instrument"] == instrument] for rows in runs]
            (each,) = (each for each in over_seeds(of_instrument) if [each.measure, each.series, each.place] == what)
            half = 0.0 if each.high is None else each.high - each.value
            cells.append(with_half_width(each.value, half))
        body.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([f"| | {' | '.join(INSIDE.values())} |", "| --- |" + " ---: |" * len(INSIDE), *body])


def tenths(column: str, results: Path) -> str:
    """What four recipes change beside vanilla on the hardest tenth of the test images, the next tenth, and so on."""
    (setting,) = settings_of("shared-affine", results)
    chosen = [replace(each, label=TENTHS[each.label]) for each in setting.recipes if each.label in TENTHS]
    deciles = latest(read(results / "cpu/test-census").deciles, setting.data)
    tables = decile_tables(replace(setting, recipes=chosen), deciles)
    (table,) = (each for each in tables if f": {column}," in each.title)
    return lines(table)


def part(make: Callable[[Path], str]) -> Callable[[Path], str]:
    """Of a table: the text for between the marks, apart from them by an empty line, as Markdown wants it."""
    return lambda results: f"\n{make(results)}\n"


PARTS: Parts = {
    ("easy.md", name): part(make)
    for name, make in {
        "shared-affine recipes": partial(all_recipes, "shared-affine"),
        "shared-affine pairs": partial(pairs, "shared-affine"),
        "shared-affine frontiers": partial(frontiers, "shared-affine", ("p",)),
        "screening recipes": partial(all_recipes, "screening"),
        "screening frontiers": partial(frontiers, "screening", ()),
        "trend": trend,
        "cifar10 recipes": partial(all_recipes, "cifar10"),
        "cifar10 frontiers": partial(frontiers, "cifar10", ("p",)),
        "cifar10 pairs": partial(pairs, "cifar10"),
        "cifar10 sharing": apart_from_sharing,
        "length": length,
        "length pairs": partial(pairs, "length"),
        "ranks": partial(along, "rank"),
        "linearity": partial(along, "linearity"),
        "clean tier": partial(all_recipes, "clean-tier"),
        "clean tier pairs": partial(pairs, "clean-tier"),
        "inside": inside,
        "tenths clean": partial(tenths, "clean accuracy"),
        "tenths l2 0.5": partial(tenths, "pgd strong l2 0.5"),
    }.items()
}

if __name__ == "__main__":
    sys.exit(write(PARTS, "bench/easy.py", "The tables of docs/easy.md, from the rows in results/easy."))
