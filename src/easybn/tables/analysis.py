"""What instruments measured: the rows of runs as values, over seeds, and as tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..json_files import Row
from ..metrics.hidden_states import LOGITS
from ..metrics.instrument import MAIN, Instrument, Measured, Plot, compared, figure, shown_in, with_half_width
from ..metrics.registry import INSTRUMENTS
from ..perturb.eps import format_eps
from ..rows import is_number
from ..stats import aggregate
from .table import Cell, Table, TableRow

Curves = Mapping[str, Sequence[Measured]]
"""Values by label, of a run or of a recipe."""


@dataclass(frozen=True)
class Shown:
    """How an instrument is shown: as its class says, or, of one that is not of the package, plainly.

    Args:
        name, title, reads, plots: see :class:`easybn.metrics.instrument.Instrument`.
    """

    name: str
    title: str
    reads: str
    plots: Sequence[Plot]

    @classmethod
    def of(cls, name: str, measures: Sequence[str] = ()) -> "Shown":
        """Of the instrument of this name; ``measures``: those of its rows."""
        if kind := INSTRUMENTS.get(name):
            return cls.of_kind(kind)
        return cls(name, name, "", [Plot(measure, measure, "depth") for measure in dict.fromkeys(measures)])

    @classmethod
    def of_kind(cls, kind: type[Instrument]) -> "Shown":
        """Of an instrument, the package's or a user's."""
        return cls(kind.name, kind.title, kind.reads, kind.plots)

    def sentence(self, curves: Curves) -> str:
        """What the values support, in one sentence; "" if nothing."""
        if kind := INSTRUMENTS.get(self.name):
            return kind.sentence(curves)
        return compared(self.plots[0], curves) if self.plots else ""

    def panels(self, curves: Curves) -> "list[Panel]":
        """What there is to show: a panel for each plot, or for each series of a plot that has them apart."""
        found = []
        for plot in self.plots:
            every = dict.fromkeys(each.series for values in curves.values() for each in values if shown_in(plot, each))
            for series in [None] if plot.together and every else every:
                found.append(Panel.of(plot, series, curves))
        return found


@dataclass(frozen=True)
class Panel:
    """The curves of one plot.

    Args:
        plot: how it is drawn.
        title: above it.
        curves: (label of the run or recipe, series) -> its values, by depth.
    """

    plot: Plot
    title: str
    curves: Mapping[tuple[str, str], Sequence[Measured]]

    @classmethod
    def of(cls, plot: Plot, series: str | None, every: Curves) -> "Panel":
        """Of the curves of one series, or of all (None)."""
        curves: dict[tuple[str, str], list[Measured]] = {}
        for label, values in every.items():
            for each in sorted(values, key=lambda each: each.depth):
                if shown_in(plot, each) and series in (None, each.series):
                    curves.setdefault((label, each.series), []).append(each)
        named = series and plot.series is None and series != MAIN
        return cls(plot, plot.title + (f", {series}" if named else ""), curves)

    def label(self, label: str, series: str) -> str:
        """What a curve is called: the run or recipe, and the series where several are shown, but for the main one."""
        return f"{label}, {series}" if self.plot.together and series not in ("", MAIN) else label


def settings_of(row: Row) -> str:
    """A key of what was asked of an instrument: rows of different keys are not compared."""
    return json.dumps([row["settings"], row["images"], row.get("seed")], sort_keys=True)


def settings_text(row: Row) -> str:
    """What was asked of an instrument, in words."""
    given = ", ".join(f"{name} {_text(name, value)}" for name, value in row["settings"].items())
    return f"{row['images']:,} test images" + (f", {given}" if given else "")


def _text(name: str, value: Any) -> str:
    """The value of an option; radii, called eps, linf_eps and so on, as elsewhere."""
    if name.endswith("eps") and is_number(value) and value > 0:
        return format_eps(float(value), name.removesuffix("eps").strip("_") or "linf")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def values(rows: Sequence[Row]) -> list[Measured]:
    """The values in rows of one run and one instrument."""
    return [Measured(**{name: row[name] for name in Measured._fields if name in row}) for row in rows]


def over_seeds(runs: Sequence[Sequence[Row]]) -> list[Measured]:
    """The mean over runs of each value, with its interval over them; of a single run its own.

    Args:
        runs: rows of one instrument with the same settings, of each run.
    """
    by_place: dict[tuple[str, str, str], list[Measured]] = {}
    for rows in runs:
        for each in values(rows):
            by_place.setdefault((each.measure, each.series, each.place), []).append(each)
    found = []
    for every in by_place.values():
        mean, half, _ = aggregate([each.value for each in every])
        if half is not None:
            found.append(every[0]._replace(value=mean, low=mean - half, high=mean + half, detail={}))
        else:
            found.append(every[0])
    return found


def over_training(shown: Shown, rows: Sequence[Row]) -> tuple[Shown, list[Row]]:
    """Values over the epochs of a training, as an instrument of their own: of each unfolded plot one place.

    The place is the last that all epochs have, but for the logits where there are other layers.

    Args:
        rows: of one instrument and setting, of any runs; those with an ``epoch`` count.

    Returns:
        How they are shown, and the rows, with the epoch as their place; no plots if there are no epochs.
    """
    plots, found = [], []
    for plot in shown.plots:
        of_plot = [row for row in rows if row.get("epoch") and row["measure"] == plot.measure and not plot.folded]
        of_plot = [row for row in of_plot if plot.series in (None, row["series"])]
        depths = {str(row["place"]): float(row["depth"]) for row in of_plot}
        layers = {place: depth for place, depth in depths.items() if place != LOGITS} or depths
        if not plot.joined or not layers:
            continue
        place = max(layers, key=layers.__getitem__)
        measure = f"{plot.measure} at {place}"
        plots.append(replace(plot, measure=measure, title=f"{plot.title} at {place}", x="epoch"))
        found += [
            {**row, "measure": measure, "place": f"epoch {row['epoch']}", "depth": row["epoch"]}
            for row in sorted(of_plot, key=lambda row: int(row["epoch"]))
            if row["place"] == place
        ]
    return Shown(f"{shown.name} over epochs", f"{shown.title}, over the training", shown.reads, plots), found


def instrument_tables(shown: Shown, curves: Curves, folded: bool = False) -> list[Table]:
    """A table for each panel: a row for each place, a column for each curve.

    Args:
        folded: those that are folded away rather than the others.
    """
    return [_table(panel) for panel in shown.panels(curves) if panel.plot.folded == folded]


def _table(panel: Panel) -> Table:
    plot = panel.plot
    columns = {panel.label(*key): {each.place: each for each in values} for key, values in panel.curves.items()}
    order = {each.place: (each.place == LOGITS, each.depth) for values in panel.curves.values() for each in values}
    rows = [
        TableRow(place, [_cell(plot, column.get(place)) for column in columns.values()])
        for place in sorted(order, key=order.__getitem__)
    ]
    title = panel.title + (", %" if plot.percent else "")
    along = plot.x.partition(",")[0].capitalize() if plot.joined else ""  # Layer, Weight, Epoch
    return Table(title, along, list(columns), rows)


def _cell(plot: Plot, each: Measured | None) -> Cell:
    """``12.3 ±0.4``, or with the ends of the interval where it is not symmetric."""
    if each is None:
        return Cell()
    factor = 100 if plot.percent else 1
    value = factor * each.value
    if each.low is None or each.high is None:
        return Cell(figure(value), value, n=each.n)
    low, high = factor * each.low, factor * each.high
    half = (high - low) / 2
    symmetric = abs(low + high - 2 * value) <= 0.05 * half
    text = with_half_width(value, half) if symmetric else f"{figure(value)} ({figure(low)} .. {figure(high)})"
    return Cell(text, value, low, high, n=each.n)
