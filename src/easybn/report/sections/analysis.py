"""What the networks are like: a figure for each instrument of ``easybn analyse``, and the sentence that it supports."""

from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from ...escapes import escaped
from ...json_files import Row
from ...metrics.hidden_states import IMAGE, LOGITS
from ...metrics.instrument import Measured
from ...metrics.registry import INSTRUMENTS
from ...tables.aggregate import Setting
from ...tables.analysis import Panel, Shown, instrument_tables, over_seeds, over_training, settings_of, settings_text
from ...tables.formats import html
from ..charts import Chart, Point, Series
from ..elements import BRANCH_DASHES, Block, Content, Figure, Key, Material, section

MOST_LETTERS = 40  # of the names of all places along an axis
APART = 0.1  # of the distance of two places, by which recipes stand beside each other


@section(
    "analysis",
    "What the networks are like",
    order=75,
    lead="Each figure is one measure of the deployed networks on test images, with its 95% interval: over seeds where "
    "there are several, else over images. Below it, what it supports in one sentence.",
)
def analysis(material: Material) -> Content:
    blocks = [block for setting in material.settings for block in _blocks(setting, material)]
    return Content(blocks, "" if blocks else "No run has an analysis.jsonl: easybn analyse RUNS writes it.")


def _blocks(setting: Setting, material: Material) -> Iterator[Block]:
    every = [row for recipe in setting.recipes for run in recipe.runs.values() for row in run.analysis]
    names = dict.fromkeys(str(row["instrument"]) for row in every)
    for name in sorted(names, key=lambda name: [*INSTRUMENTS, name].index(name)):
        of_runs = _settings_of_runs(setting, name)
        asked = dict.fromkeys(key for keys in of_runs for key in keys)
        key = max(asked, key=lambda key: sum(key in keys for keys in of_runs))  # what most runs have
        rows = [row for row in every if row["instrument"] == name and settings_of(row) == key]
        shown = Shown.of(name, [str(row["measure"]) for row in rows])
        curves, title = _curves(setting, name, key, _of_trained), f"{setting.title}: {shown.title}"
        words = f"{shown.reads} {settings_text(rows[0])}.".strip()
        if len(asked) > 1:
            words += f" Of {len(asked)} settings under which it was measured, the one that most runs share is shown."
        for folded in (False, True):
            if panels := [panel for panel in shown.panels(curves) if panel.plot.folded == folded]:
                figures = [_figure(panel, title, material) for panel in panels]
                caption, fold = ("", f"{title}, more") if folded else (f"{shown.sentence(curves)} {words}".strip(), "")
                yield Block("figures", title, caption, figures, _legend(panels, material), folded=fold)
        over, _ = over_training(shown, rows)
        if over.plots:
            yield _over_training(setting, shown, over, key, material)
        tables = [*instrument_tables(shown, curves), *instrument_tables(shown, curves, folded=True)]
        numbers = [Markup("<h4>{}</h4>").format(escaped(table.title)) + Markup(html(table)) for table in tables]
        yield Block("html", caption=words, folded=f"{title}, numbers", content={"html": Markup("").join(numbers)})


def _over_training(setting: Setting, shown: Shown, over: Shown, key: str, material: Material) -> Block:
    """Curves over the epochs after which networks were kept."""
    curves = _curves(setting, shown.name, key, lambda rows: over_training(shown, rows)[1])
    panels, title = over.panels(curves), f"{setting.title}: {over.title}"
    figures = [_figure(panel, title, material) for panel in panels]
    return Block("figures", title, over.sentence(curves), figures, _legend(panels, material))


def _of_trained(rows: Sequence[Row]) -> list[Row]:
    """Those of the trained networks, not of networks kept on the way."""
    return [row for row in rows if not row.get("epoch")]


def _settings_of_runs(setting: Setting, name: str) -> list[set[str]]:
    """For each run the settings under which an instrument measured it."""
    return [
        {settings_of(row) for row in run.analysis if row["instrument"] == name}
        for recipe in setting.recipes
        for run in recipe.runs.values()
    ]


def _curves(
    setting: Setting, name: str, key: str, chosen: Callable[[Sequence[Row]], list[Row]]
) -> dict[str, list[Measured]]:
    """Values of one instrument under the same settings, of every recipe that has them; of a run those ``chosen``."""

    def rows(run: Sequence[Row]) -> list[Row]:
        return chosen([row for row in run if row["instrument"] == name and settings_of(row) == key])

    found = {recipe.label: [rows(run.analysis) for run in recipe.runs.values()] for recipe in setting.recipes}
    return {label: over_seeds(runs) for label, runs in found.items() if any(runs)}


def _figure(panel: Panel, title: str, material: Material) -> Figure:
    plot = panel.plot
    places = {each.depth: each.place for values in panel.curves.values() for each in values}
    named = len("".join(places.values())) <= MOST_LETTERS
    step = min((b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)), default=1.0)
    series = []
    for i, ((label, name), values) in enumerate(panel.curves.items()):
        aside = 0.0 if plot.joined else APART * step * (i - (len(panel.curves) - 1) / 2)
        points = [Point(each.depth + aside, each.value, each.low, each.high) for each in values]
        colour, dash = material.colours.css_class(label), _dash(panel, label, name, material)
        apart = not plot.joined
        series.append(Series(panel.label(label, name), points, colour, dash, whiskers=apart, joined=plot.joined))
    ticks = [(depth, place if named else _tick(depth, place)) for depth, place in sorted(places.items())]
    unit = f"{plot.y or plot.title}{', %' if plot.percent else ''}"
    ends = [end for values in panel.curves.values() for each in values for end in (each.low, each.value, each.high)]
    numbers = [end for end in ends if end is not None]
    log = plot.log and min(numbers) > 0
    chart = Chart(
        f"{title}: {panel.title}", plot.x, unit, series, log=log, x_ticks=ticks, percent=plot.percent,
        y_range=None if plot.from_zero or log else _around(numbers),
    )  # fmt: skip
    caption = (
        "" if named or plot.joined else "; ".join(f"{depth:g}: {place}" for depth, place in sorted(places.items()))
    )
    return Figure(panel.title, chart.svg(), caption)


def _around(numbers: Sequence[float]) -> tuple[float, float]:
    """A range that holds the numbers and a little more."""
    low, high = min(numbers), max(numbers)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _tick(depth: float, place: str) -> str:
    return place if place in (IMAGE, LOGITS) else f"{depth:g}"


def _dash(panel: Panel, label: str, series: str, material: Material) -> str:
    """Of a recipe's variant, or, where all branches are in one panel, of the branch."""
    names = [name for of, name in panel.curves if of == label]
    if len(names) < 2:
        return material.colours.dash(label)
    return BRANCH_DASHES[names.index(series) % len(BRANCH_DASHES)]


def _legend(panels: Sequence[Panel], material: Material) -> list[Key]:
    keys: dict[str, Key] = {}
    for panel in panels:
        for label, series in panel.curves:
            name = panel.label(label, series)
            keys[name] = Key(name, material.colours.css_class(label), _dash(panel, label, series, material))
    return list(keys.values())
