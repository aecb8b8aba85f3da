"""Layer by layer: how far the branches' statistics have moved apart, and where perturbed images' states end up."""

from collections.abc import Sequence

from ...json_files import Row
from ...paper.claims import called, kind_of
from ...stats import aggregate
from ..charts import Chart, Point, Series
from ..page import Block, Figure, Key, Material, Section, legend
from .training_curves import DASHES

DEPTH = "layer, from the input on"
MEASURES = {
    "symmetric_kl": "running statistics (KL, nats)",
    "relative_weight": "gamma (relative)",
    "relative_bias": "beta (relative)",
}


def branches(material: Material) -> Section:
    """How far the statistics of each pair of branches lie apart."""
    blocks = []
    for setting in material.settings:
        rows = {each.label: [run.branches for run in each.runs.values()] for each in setting.recipes}
        every = [row for runs in rows.values() for run in runs for row in run]
        figures = []
        keys: dict[str, Key] = {}
        for measure in dict.fromkeys(str(row["measure"]) for row in every):
            series = []
            for label, runs in rows.items():
                of = [[row for row in run if row["measure"] == measure] for run in runs if run]
                found = dict.fromkeys(_pair(row) for run in of for row in run)
                for i, pair in enumerate(found):
                    points = _by_depth([[row for row in run if _pair(row) == pair] for run in of], "value")
                    dash = DASHES[i] if len(found) > 1 else material.colours.dash(label)
                    name, colour = f"{label}: {pair}", material.colours.css_class(label)
                    series.append(Series(name, points, colour, dash))
                    keys[name] = Key(name, colour, dash)
            title = MEASURES.get(measure, measure)
            log = all(point.y > 0 for each in series for point in each.points) and measure == "symmetric_kl"
            chart = Chart(f"{setting.title}: {title}", DEPTH, "distance", series, log=log)
            figures.append(Figure(title, chart.svg()))
        if figures:
            blocks.append(Block("figures", setting.title, figures=figures, legend=list(keys.values())))
    missing = "" if blocks else "No run has a branches.jsonl: easybn hidden RUNS writes it, of runs with a checkpoint."
    lead = (
        "The distance of two branches in each norm layer: of their running statistics (symmetric KL divergence of a "
        "Gaussian a channel, in nats, logarithmic), and of gamma and beta relative to their size."
    )
    return Section("branches", "How far the branches have moved apart", lead if blocks else "", blocks, missing)


def hidden(material: Material) -> Section:
    """How far perturbed images' hidden states lie from those of the clean images."""
    blocks = []
    for setting in material.settings:
        every = [row for each in setting.recipes for run in each.runs.values() for row in run.hidden]
        figures = []
        for kind in sorted({kind_of(row) for row in every}, key=lambda kind: (kind[1:3], kind[0])):
            series = []
            for each in setting.recipes:
                of = [[row for row in run.hidden if kind_of(row) == kind] for run in each.runs.values()]
                if points := _by_depth([rows for rows in of if rows], "relative_distance"):
                    series.append(
                        Series(each.label, points, material.colours.css_class(each), material.colours.dash(each))
                    )
            ticks = sorted({point.x for one in series for point in one.points})
            names = [(tick, _place(every, tick)) for tick in ticks]
            chart = Chart(
                f"{setting.title}: {called(kind)}", DEPTH, "relative distance, %", series, x_ticks=names, percent=True
            )
            figures.append(Figure(called(kind), chart.svg()))
        if figures:
            blocks.append(Block("figures", setting.title, figures=figures, legend=legend(setting, material.colours)))
    missing = "" if blocks else "No run has a hidden.jsonl: easybn hidden RUNS writes it."
    lead = (
        "The distance of a perturbed image's state from that of the clean image, relative to the clean one's size. If "
        "a network maps states back (C6), its curve falls towards the deeper layers, and lies below the others there."
    )
    return Section("hidden", "Hidden states", lead if blocks else "", blocks, missing)


def _by_depth(runs: Sequence[Sequence[Row]], value: str) -> list[Point]:
    """The mean over runs at each depth, with its interval; of a single run the row's own."""
    depths = sorted({float(row["depth"]) for run in runs for row in run})
    points = []
    for depth in depths:
        rows = [row for run in runs for row in run if float(row["depth"]) == depth]
        found = aggregate([float(row[value]) for row in rows])
        if found.half_width is not None and len(runs) > 1:
            points.append(Point(depth, found.mean, found.mean - found.half_width, found.mean + found.half_width))
        else:
            points.append(Point(depth, found.mean, rows[0].get("low"), rows[0].get("high")))
    return points


def _place(rows: Sequence[Row], depth: float) -> str:
    """The number of a layer, and what the first and last are."""
    if depth == 0:
        return "image"
    last = any(row["depth"] == depth == row.get("depths") for row in rows)
    return "logits" if last else f"{depth:g}"


def _pair(row: Row) -> str:
    return f"{row['branch_a']} and {row['branch_b']}"
