"""Clean against robust accuracy of recipes at several strengths: their frontiers, and how far these lie apart."""

from collections.abc import Iterator, Sequence

import numpy as np

from ...stats import Aggregate
from ...tables.aggregate import Setting
from ...tables.frontier import Frontier, Strengths, frontier_table, robust_columns, strengths
from ...tables.rows import Column
from ..charts import Chart, Point, Series, nice
from ..elements import DASHES, Block, Colours, Content, Figure, Key, Material, section


@section(
    "frontier",
    "Clean against robust accuracy",
    order=33,
    lead="Each dot is a recipe at one strength (an eps, a probability, a weight), a mean over its seeds with 95% "
    "intervals where there are several; the line is the recipe's frontier, through those that no other strength beats "
    "in both. Further up and to the right is better. Recipes with one strength are a dot without a line.",
)
def frontier(material: Material) -> Content:
    blocks = [block for setting in material.settings for block in _blocks(setting, material)]
    missing = "No recipe was measured at two strengths, such as two values of eps: easybn train, easybn evaluate."
    return Content(blocks, "" if blocks else missing)


def _blocks(setting: Setting, material: Material) -> Iterator[Block]:
    charts = frontier_charts(setting, material.colours)
    if not charts:
        return
    figures = [Figure(column.name, chart.svg()) for column, chart in charts]
    shown = [each for _, chart in charts for each in chart.series]
    # a curve, where there is one, is drawn with the dash
    keys = {each.label: Key(each.label, each.css_class, each.dash) for each in sorted(shown, key=lambda s: s.joined)}
    legend = [keys[label] for label in dict.fromkeys(each.label for each in shown)]
    yield Block("figures", setting.title, figures=figures, legend=legend)
    if (table := frontier_table(setting)).rows:
        yield Block("table", table.title, table.caption, table=table)


def frontier_charts(setting: Setting, colours: Colours, apart: Sequence[str] = ()) -> list[tuple[Column, Chart]]:
    """Robust against clean accuracy in every column that was measured at two strengths of one recipe.

    Args:
        apart: see :func:`easybn.tables.frontier.strengths`.
    """
    groups = strengths(setting, apart)
    dashes = _dashes(groups)
    charts = []
    for column in robust_columns(setting):
        series = [each for group in groups for each in _series(group, column, colours, dashes[group.label])]
        if any(each.joined for each in series):
            charts.append((column, _chart(f"{setting.title}: {column.name}", series)))
    return charts


def _dashes(groups: Sequence[Strengths]) -> dict[str, str]:
    """A dash for each of the recipes of one class, which share its colour."""
    of_class: dict[str, int] = {}
    dashes = {}
    for group in groups:
        number = of_class.setdefault(group.recipes[0].method, 0)
        of_class[group.recipes[0].method] += 1
        dashes[group.label] = DASHES[number % len(DASHES)]
    return dashes


def _series(group: Strengths, column: Column, colours: Colours, dash: str) -> list[Series]:
    """A dot for each strength, and the frontier as a line where there are at least two strengths."""
    measured = group.measured(column)
    css_class = colours.css_class(group.recipes[0])
    names = group.names
    dots = [
        Point(clean.mean, robust.mean, *_ends(robust), *_ends(clean), names[recipe.label] if len(names) > 1 else "")
        for recipe, clean, robust in measured
    ]
    series = [Series(group.label, dots, css_class, thin=True, whiskers=True, joined=False)] if dots else []
    if len(dots) > 1:
        found = Frontier(np.array([dot.x for dot in dots]), np.array([dot.y for dot in dots]))
        places = [found.low, *(dots[i].x for i in found.best if dots[i].x > found.low)]
        line = [Point(place, float(found.at(place))) for place in places]
        series.append(Series(group.label, line, css_class, dash, marks=False))
    return series


def _ends(accuracy: Aggregate) -> tuple[float | None, float | None]:
    """Of the interval over seeds, within [0, 1]; nothing of one seed."""
    if accuracy.half_width is None:
        return None, None
    return max(0.0, accuracy.mean - accuracy.half_width), min(1.0, accuracy.mean + accuracy.half_width)


def _chart(title: str, series: Sequence[Series]) -> Chart:
    every = [point for each in series for point in each.points]
    places = [value for p in every for value in (p.x, p.x_low, p.x_high) if value is not None]
    ticks = [(place, f"{100 * place:.4g}") for place in nice(min(places), max(places))]
    return Chart(title, "clean accuracy, %", "robust accuracy, %", series, x_ticks=ticks, percent=True)
