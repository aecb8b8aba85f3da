"""Training curves of every branch, each seed a line; the loss on a logarithmic axis, so that a collapse is seen."""

from collections.abc import Callable, Sequence

from ...json_files import Row
from ...tables.aggregate import RecipeRuns, Setting
from ..charts import Chart, Point, Series, finite
from ..page import Block, Figure, Material, Section

DASHES = ("", "5 3", "2 3", "8 3 2 3")


def section(material: Material) -> Section:
    blocks = []
    for setting in material.settings:
        loss = _figures(setting, material, "train", "loss", log=True)
        right = _figures(setting, material, "val", "accuracy", log=False)
        if loss:
            blocks.append(Block("figures", f"{setting.title}: training loss", figures=loss))
        if right:
            blocks.append(Block("figures", f"{setting.title}: accuracy on held-out images", figures=right))
    missing = "" if blocks else "No run has a metrics.jsonl: easybn train writes it."
    lead = (
        "A line a branch and seed: solid the main branch, which is deployed, dashed the auxiliary ones. An auxiliary "
        "loss that falls far below the main one means that its perturbed images have become too easy to teach anything."
    )
    return Section("training", "Training curves", lead if blocks else "", blocks, missing)


def _figures(setting: Setting, material: Material, part: str, value: str, log: bool) -> list[Figure]:
    of = {each.label: _series(each, material, part, value) for each in setting.recipes}
    values = [point.y for series in of.values() for each in series for point in finite(each.points)]
    values = [each for each in values if each > 0 or not log]
    if not values:
        return []
    if log:
        ends = (min(values) * 0.8, max(values) * 1.25)
    else:
        ends = (max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.02))
    figures = []
    for label, series in of.items():
        if series:
            title, axis = f"{setting.title}: {label}, {part} {value}", value if log else f"{value}, %"
            chart = Chart(title, "epoch", axis, series, ends, percent=not log, log=log, room=44)
            figures.append(Figure(label, chart.svg()))
    return figures


def _series(recipe: RecipeRuns, material: Material, part: str, value: str) -> list[Series]:
    out = []
    for i, run in enumerate(recipe.runs.values()):
        branches = list(dict.fromkeys(name for row in run.metrics for name in row.get(part, {})))
        for number, branch in enumerate(branches):
            points = _points(run.metrics, lambda row, b=branch: row.get(part, {}).get(b, {}).get(value))  # type: ignore[misc]
            if points:
                colour, dash = material.colours.css_class(recipe), DASHES[number % len(DASHES)]
                tag = branch if i == 0 else ""
                out.append(Series(branch, points, colour, dash, thin=i > 0, tag=tag, marks=len(points) == 1))
    return out


def _points(rows: Sequence[Row], value: Callable[[Row], float | None]) -> list[Point]:
    return [Point(float(row["epoch"]), float(y)) for row in rows if isinstance(y := value(row), int | float)]
