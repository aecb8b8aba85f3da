"""Figures for papers and pages as PNG, SVG or PDF files, drawn by matplotlib (the extra ``plot``), imported here alone.

A figure is as wide as a column, with two panels or more as the text of a page, in type of 7 and 8 points. Every curve
has a marker of its own beside its colour. The same rows give the same bytes: no date is written, and no setting of the
user's matplotlib counts. What is drawn is in the file as numbers too: JSON in the description of a PNG or SVG file, and
in the subject of a PDF file.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replacing
from .charts import Chart, Point, finite, nice, value_range
from .plots import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
COLUMN, TEXT, PANEL = 3.35, 6.9, 2.35
"""Widths of a column and of a page's text, and the height of a panel, in inches."""
MARKERS = "os^DvPX<>p"
INK, SOFT, GRID, PAPER = ("#1b1f24", "#e7eaee"), ("#58616b", "#a2acb7"), ("#d9dee4", "#333a42"), ("#ffffff", "#14171b")
"""On light and on dark pages, as in the report's style sheet; paper is behind a PNG, else nothing."""
BESIDE = 1.4  # points between the marks of two curves at one eps, so that both intervals are seen

Style = dict[str, Any]  # arguments of a line


def check_plot(path: Path | str) -> None:
    """Raise unless a figure can be drawn into ``path``: to be called before anything that takes long.

    Raises:
        ValueError: another ending than :data:`FORMATS`, a folder in its place, or matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--plot {path}: a figure is a .png, .svg or .pdf file")
    if path.is_dir():
        raise ValueError(f"--plot {path}: there is a folder in the place of a file: give another name")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("--plot needs matplotlib: pip install 'easybn[plot]'") from error


def write_plot(plot: Plot, path: Path | str, dark: bool = False) -> None:
    """Draw ``plot`` into a file, whole or not at all.

    Args:
        path: its ending says in which format, see :data:`FORMATS`.
        dark: in the colours for dark pages.

    Raises:
        ValueError: as of :func:`check_plot`.
        OSError: the file cannot be written.
    """
    check_plot(path)
    kind, told = Path(path).suffix.lower(), json.dumps(plot.numbers, separators=(",", ":"))
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None, "Producer": None}, ".png": {"Software": None}}[kind]
    about = {"Subject" if kind == ".pdf" else "Description": told, "Creator": None, **dated}
    with our_settings(dark):
        figure = draw(plot, dark)
        with replacing(path) as file:
            figure.savefig(file, format=kind[1:], metadata=about, transparent=kind != ".png")


@contextmanager
def our_settings(dark: bool = False) -> Iterator[None]:
    """matplotlib's own settings and ours as long as the block lasts, whatever the user's are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
            "legend.fontsize": 7, "lines.linewidth": 1.2, "lines.markersize": 3.6, "axes.linewidth": 0.6,
            "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.linewidth": 0.5,
            "xtick.major.width": 0.6, "ytick.major.size": 0, "text.color": INK[dark], "axes.labelcolor": INK[dark],
            "axes.titlecolor": INK[dark], "xtick.color": SOFT[dark], "ytick.color": SOFT[dark],
            "axes.edgecolor": SOFT[dark], "grid.color": GRID[dark], "axes.facecolor": PAPER[dark],
            "figure.facecolor": PAPER[dark],
            "savefig.dpi": 300, "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "easybn",
        })  # fmt: skip
        yield


def draw(plot: Plot, dark: bool = False) -> "Figure":
    """The figure, to be called inside :func:`our_settings`; nothing is written."""
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for
    from matplotlib.lines import Line2D

    rows, columns = math.ceil(len(plot.panels) / 2), min(len(plot.panels), 2)
    styles = _styles(plot, dark)
    width = COLUMN if columns == 1 else TEXT
    fit = max(1, int(width / (0.05 * max(map(len, styles)) + 0.6)))  # labels of the legend beside each other
    lines = math.ceil(len(styles) / fit)
    figure = Figure(figsize=(width, PANEL * rows + 0.16 * lines + 0.1), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every[len(plot.panels) :]:
        axes.remove()
    for axes, (title, chart) in zip(every, plot.panels, strict=False):
        axes.set_title(title)
        _panel(axes, chart, styles)
    handles = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=math.ceil(len(styles) / lines), frameon=False,
        handlelength=2.6, columnspacing=1.2, labelspacing=0.3,
    )  # fmt: skip
    figure.draw_without_rendering()  # now every panel has its place,
    figure.set_layout_engine("none")  # and keeps it
    for axes, (_, chart) in zip(every, plot.panels, strict=False):
        _name_points(axes, chart, styles)
    return figure


def _styles(plot: Plot, dark: bool) -> dict[str, Style]:
    """Colour, marker and dash of every curve by its label, in all panels the same."""
    drawn = [each for _, chart in plot.panels for each in chart.series if finite(each.points)]
    styles: dict[str, Style] = {}
    for i, label in enumerate(dict.fromkeys(each.label for each in drawn)):
        alike = [each for each in drawn if each.label == label]
        dash = next((each.dash for each in alike if each.dash), "")
        styles[label] = {
            "color": plot.colours[alike[0].css_class][dark],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": (0, tuple(map(float, dash.split()))) if dash else "-",
        }
        if not any(each.joined for each in alike):
            styles[label] |= {"linestyle": ""}
    return styles


def _panel(axes: "Axes", chart: Chart, styles: Mapping[str, Style]) -> None:
    """The curves, their intervals, and the axes."""
    from matplotlib.transforms import ScaledTranslation

    scale = _scale(chart)
    every = [point for each in chart.series for point in finite(each.points)]
    xs = [value for p in every for value in (p.x, p.x_low, p.x_high) if value is not None]
    share = 0.16 if any(point.label for each in chart.series if each.joined for point in each.points) else 0.04
    margin = share * (max(xs) - min(xs)) or 0.01  # with room for the values beside a curve
    low, high = chart.y_range or value_range(every)
    axes.set(xlim=(min(xs) - margin, max(xs) + margin), xlabel=chart.x)
    axes.set(ylim=(scale * low, scale * high), ylabel=chart.y)
    ticks = chart.x_ticks or [(tick, f"{tick:g}") for tick in nice(min(xs), max(xs))]
    axes.set_xticks([place for place, _ in ticks], [words for _, words in ticks])
    axes.grid(axis="y")
    side_by_side = [each for each in chart.series if each.joined and each.marks]
    for each in chart.series:
        points, style = finite(each.points), styles[each.label]
        shift = BESIDE * (side_by_side.index(each) - (len(side_by_side) - 1) / 2) if each in side_by_side else 0.0
        place = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
        shown = style | ({} if each.marks else {"marker": ""}) | ({} if each.joined else {"linestyle": ""})
        x, y = [point.x for point in points], [scale * point.y for point in points]
        axes.plot(x, y, label=each.label, transform=place, clip_on=False, **shown)
        fine = {"linewidth": 0.6, "alpha": 0.65} if each.thin else {"linewidth": 0.8}
        thin = {"colors": style["color"], "transform": place, "label": each.label, **fine}
        if up := [(p.x, scale * p.low, scale * p.high) for p in points if p.low is not None and p.high is not None]:
            axes.vlines(*zip(*up, strict=True), **thin)
        if wide := [(scale * p.y, p.x_low, p.x_high) for p in points if p.x_low is not None and p.x_high is not None]:
            axes.hlines(*zip(*wide, strict=True), **thin)


def _scale(chart: Chart) -> float:
    return 100 if chart.percent else 1


# Names beside points, each where it covers nothing.

AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
PLACES = [(distance * x, distance * y) for distance in (4.5, 7.5) for x, y in AROUND]
"""Where a name may stand, in points from its mark, the best first."""
MARK = 2.8  # points that a mark takes to each side
Box = tuple[float, float, float, float]  # left, low, right, high, in pixels


def _name_points(axes: "Axes", chart: Chart, styles: Mapping[str, Style]) -> None:
    """Write the names of points beside them, of those on a curve first; one for which there is no room is left out."""
    pixels, inside, scale = axes.figure.dpi / 72, axes.get_window_extent(), _scale(chart)

    def at(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in axes.transData.transform([(x, scale * y) for x, y in points])]

    curves = [[(p.x, p.y) for p in finite(each.points)] for each in chart.series if each.joined]
    paths = [
        *filter(None, curves),
        *(path for each in chart.series for point in finite(each.points) for path in _ends(point)),
    ]
    lines = [spot for path in paths for spot in _along(at(path), 2 * pixels)]
    corners = {place for curve in curves for place in curve}
    marks = [(each, point) for each in chart.series if each.marks for point in finite(each.points)]
    taken = [(x - MARK * pixels, y - MARK * pixels, x + MARK * pixels, y + MARK * pixels)
             for x, y in (at([(point.x, point.y) for _, point in marks]) if marks else ())]  # fmt: skip
    named = [(each, point) for each, point in marks if point.label]
    for series, point in sorted(named, key=lambda each: (each[1].x, each[1].y) not in corners):
        about = {"xy": (point.x, scale * point.y), "textcoords": "offset points", "fontsize": 6,
                 "color": styles[series.label]["color"], "linespacing": 0.95}  # fmt: skip
        words = point.label if len(point.label) < 12 else point.label.replace(", ", "\n")
        text = axes.annotate(words, xytext=(0, 0), **about)
        extent = text.get_window_extent()
        text.remove()
        [(x, y)] = at([(point.x, point.y)])
        edges = inside.x0, inside.y0 - MARK * pixels, inside.x1, inside.y1 + MARK * pixels
        boxes = [(box, _cost(box, taken, lines, edges)) for box in _boxes(x, y, extent.width, extent.height, pixels)]
        box, cost = min(boxes, key=lambda each: each[1])  # of equal ones the first
        if cost[0] == 0:
            taken.append(box)
            offset = (box[0] - x) / pixels, (box[1] - y) / pixels
            axes.annotate(words, xytext=offset, va="bottom", **about)


def _ends(point: Point) -> Iterator[list[tuple[float, float]]]:
    """The lines of its intervals."""
    if point.low is not None and point.high is not None:
        yield [(point.x, point.low), (point.x, point.high)]
    if point.x_low is not None and point.x_high is not None:
        yield [(point.x_low, point.y), (point.x_high, point.y)]


def _boxes(x: float, y: float, width: float, height: float, pixels: float) -> Iterator[Box]:
    """Where a text of that size may stand beside a mark, the best place first."""
    for dx, dy in PLACES:
        left = x + dx * pixels - width * (0.0 if dx > 0 else 1.0 if dx < 0 else 0.5)
        low = y + dy * pixels - height * (0.0 if dy > 0 else 1.0 if dy < 0 else 0.5)
        yield left, low, left + width, low + height


def _cost(box: Box, taken: Sequence[Box], lines: Sequence[tuple[float, float]], inside: Box) -> tuple[int, int]:
    """What a text there would cover: names, marks and the edge of the panel, then spots of curves."""
    covered = sum(box[0] < each[2] and each[0] < box[2] and box[1] < each[3] and each[1] < box[3] for each in taken)
    outside = box[0] < inside[0] or box[1] < inside[1] or box[2] > inside[2] or box[3] > inside[3]
    return covered + outside, sum(box[0] < x < box[2] and box[1] < y < box[3] for x, y in lines)


def _along(corners: Sequence[tuple[float, float]], step: float) -> list[tuple[float, float]]:
    """Spots at most ``step`` pixels apart along a path."""
    spots = []
    for (x, y), end in pairwise(corners):
        steps = max(1, math.ceil(math.dist((x, y), end) / step))
        spots += [(x + (end[0] - x) * i / steps, y + (end[1] - y) * i / steps) for i in range(steps + 1)]
    return spots
