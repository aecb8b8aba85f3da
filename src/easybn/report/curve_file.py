"""Curves of robust accuracy over eps as files of their own: SVG, and PNG with matplotlib (the extra ``plot``)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.curve import RobustnessCurve
from ..perturb.eps import format_eps
from .charts import svg_file
from .sections.points import HOW_TO_READ, curve_chart, curve_series

PALETTE = ("#0069a8", "#c65200", "#00694b", "#5d5bb8", "#7d5a3c", "#9c2f3d")
DASHES = ("", "6 3", "2 3")
STEPS = 400
"""Of the grid; far below what can be seen."""


def curves_svg(curves: Mapping[str, RobustnessCurve]) -> str:
    """The text of an SVG file with the curves, a legend, and how to read them.

    Args:
        curves: by name, all in one norm.
    """
    norm = next(iter(curves.values())).norm
    series, legend, colours = [], [], {}
    for i, (name, curve) in enumerate(curves.items()):
        css_class, dash = f"c{i}", DASHES[i // len(PALETTE) % len(DASHES)]
        colours[css_class] = PALETTE[i % len(PALETTE)]
        series += curve_series(name, curve.sampled(STEPS), css_class, dash, whiskers=True)
        legend.append((css_class, f"{name} ({curve.n:,} points)"))
    chart = curve_chart(f"Robust accuracy at every eps, {norm}", norm, series)
    return svg_file(chart, [*legend, *(("", line) for line in HOW_TO_READ)], colours)


def draw_png(curves: Mapping[str, RobustnessCurve]) -> bytes:
    """The same as a PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for

    norm = next(iter(curves.values())).norm
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, curve) in enumerate(curves.items()):
        row, colour = curve.sampled(STEPS), PALETTE[i % len(PALETTE)]
        line, dots = curve_series(name, row, "", whiskers=True)
        x, y = [point.x for point in line.points], [100 * point.y for point in line.points]
        axes.plot(x, y, color=colour, label=f"{name} ({curve.n:,} points)")
        band = [(p.x, 100 * p.low, 100 * p.high) for p in line.points if p.low is not None and p.high is not None]
        places, low, high = zip(*band, strict=True)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.errorbar(*_dots(dots.points), color=colour, fmt="o", markersize=4)
    radii = sorted({radius for curve in curves.values() for radius in (0.0, *curve.radii)})
    axes.set_xticks(radii, ["0" if eps == 0 else format_eps(eps, norm) for eps in radii])
    axes.set(xlabel=f"eps, {norm}", ylabel="accuracy, %", ylim=(0, 100))
    axes.legend(title="\n".join(HOW_TO_READ), title_fontsize="x-small", fontsize="small", loc="upper center",
                bbox_to_anchor=(0.5, -0.14), frameon=False)  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def _dots(points: Sequence[Any]) -> tuple[list[float], list[float], list[list[float]]]:
    """x, y and the lengths of the whiskers below and above, in percent."""
    y = [100 * point.y for point in points]
    below, above = [100 * (p.y - p.low) for p in points], [100 * (p.high - p.y) for p in points]
    return [point.x for point in points], y, [[max(0.0, each) for each in side] for side in (below, above)]
