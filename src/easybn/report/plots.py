"""What the figures of ``--plot`` show: the report's charts, each a panel. How they are drawn is in :mod:`.plot_file`.

Nothing here needs matplotlib.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..json_files import Row
from ..perturb.eps import format_eps
from ..tables.aggregate import Setting
from .charts import Chart, Point, Series, finite
from .elements import Colours
from .sections.frontier import frontier_charts
from .sections.robustness import (
    accuracy_chart,
    accuracy_point,
    attack_key,
    attack_labels,
    attack_name,
    eps_chart,
    measured_attacks,
)

PALETTE = (("#0069a8", "#62b6f7"), ("#c65200", "#ff9a52"), ("#00694b", "#3fcf9f"), ("#5d5bb8", "#a9a7ff"),
           ("#7d5a3c", "#d3ab86"), ("#9c2f3d", "#ff9099"))  # fmt: skip
"""Of what has no colour of its own, on light and on dark pages; the hues are those of the recipes."""


@dataclass(frozen=True)
class Plot:
    """A figure of one or several charts.

    Args:
        panels: each with its title.
        colours: by CSS class the colour on light and on dark pages.
    """

    panels: Sequence[tuple[str, Chart]]
    colours: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def only(self, words: Sequence[str]) -> "Plot":
        """The panels whose title has one of ``words`` in it, in any case; all of them without any word.

        Raises:
            ValueError: a word is in no title.
        """
        titles = [title.replace("\n", ": ") for title, _ in self.panels]
        for word in words:
            if not any(word.casefold() in title.casefold() for title in titles):
                raise ValueError(f"--panels {word}: no panel is called so; there are {'; '.join(titles)}")
        kept = [
            panel for panel, title in zip(self.panels, titles, strict=True)
            if not words or any(word.casefold() in title.casefold() for word in words)
        ]  # fmt: skip
        return Plot(kept, self.colours)

    @property
    def numbers(self) -> list[dict[str, Any]]:
        """All that it shows, as it is written into its file.

        Returns:
            For each panel its title, the names of the axes, and of every curve its label, whether its points are
            joined, and of each point x, y, the ends of their intervals and its label where it has them, to six digits.
        """
        panels = []
        for title, chart in self.panels:
            curves = [
                {"label": each.label, "joined": each.joined, "points": list(map(_rounded, finite(each.points)))}
                for each in chart.series
            ]
            panels.append({"title": title, "x": chart.x, "y": chart.y, "curves": curves})
        return panels


def _rounded(point: Point) -> dict[str, float | str]:
    known = {name: value for name, value in asdict(point).items() if value is not None and value != ""}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in known.items()}


def table_plot(settings: Sequence[Setting]) -> Plot:
    """Accuracy over eps: a panel for each setting and attack, a curve for each recipe, with 95% intervals over seeds.

    Raises:
        ValueError: nothing was attacked.
    """
    colours = Colours.of(settings)
    panels = [
        (_title(setting, attack_name(attack, attack_labels(setting)), settings), eps_chart(setting, attack, colours))
        for setting in settings
        for attack in measured_attacks(setting)
    ]
    if not panels:
        raise ValueError("nothing to draw: no run was attacked (easybn evaluate RUNS)")
    return Plot(panels, colours.pairs)


def frontier_plot(settings: Sequence[Setting], apart: Sequence[str] = ()) -> Plot:
    """Robust against clean accuracy: a panel for each setting and radius, a mark for each strength, and the frontiers.

    Args:
        apart: see :func:`easybn.tables.frontier.strengths`.

    Raises:
        ValueError: no recipe was measured at two strengths.
    """
    colours, panels = Colours.of(settings), []
    for setting in settings:
        for column, chart in frontier_charts(setting, colours, apart):
            attack = column.attack, column.protocol, str(column.norm)
            name = f"{attack_name(attack, attack_labels(setting))} {format_eps(column.eps or 0.0, column.norm)}"
            panels.append((_title(setting, name, settings), chart))
    if not panels:
        raise ValueError("nothing to draw: a frontier needs a recipe that was measured at two strengths")
    return Plot(panels, colours.pairs)


def _title(setting: Setting, name: str, settings: Sequence[Setting]) -> str:
    """The attack; under the data set, or all that tells the setting from others, where there are several."""
    if len(settings) == 1:
        return name
    alone = [each.data for each in settings].count(setting.data) == 1
    return f"{setting.data if alone else setting.title}\n{name}"


def evaluation_plot(rows: Mapping[str, Sequence[Row]]) -> Plot:
    """Accuracy over eps of one evaluation of one or several models, with the 95% intervals of each score.

    Of one model a curve for each attack; of several a panel for each attack, with a curve for each model. Where there
    is a single curve, its values stand beside it.

    Args:
        rows: by the model's name, those of clean accuracy and of each attack and radius, in the form of scores.jsonl.
    """
    every = [row for of_model in rows.values() for row in of_model]
    shown = {name: each for row in every for name, each in (row.get("appearance") or {}).items()}
    labels = {name: str(each.get("label") or name) for name, each in shown.items()}
    names = {attack: attack_name(attack, labels) for attack in (attack_key(row) for row in every if row.get("eps"))}
    curves = {(model, attack): _scores_under(attack, rows[model]) for attack in names for model in rows}
    norm = next(iter(names))[2]
    classes = {key: f"c{i}" for i, key in enumerate(rows if len(rows) > 1 else names)}
    colours = {css_class: PALETTE[i % len(PALETTE)] for i, css_class in enumerate(classes.values())}
    if len(rows) > 1:
        panels = {
            name: [Series(model, curves[model, attack], classes[model]) for model in rows]
            for attack, name in names.items()
        }
    else:
        model, alone = next(iter(rows)), len(names) == 1
        named = {attack: _with_values(curves[model, attack]) if alone else curves[model, attack] for attack in names}
        panels = {"": [Series(name, named[attack], classes[attack]) for attack, name in names.items()]}
    return Plot([(name, accuracy_chart(name, norm, series)) for name, series in panels.items()], colours)


def _scores_under(attack: tuple[str, str | None, str], rows: Sequence[Row]) -> list[Point]:
    used = {float(row.get("eps") or 0.0): row for row in rows if not row.get("eps") or attack_key(row) == attack}
    return [accuracy_point(eps, [used[eps]]) for eps in sorted(used)]


def _with_values(points: Sequence[Point]) -> list[Point]:
    return [replace(point, label=f"{100 * point.y:.1f}") for point in points]
