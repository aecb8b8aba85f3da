"""Bars: shares of a whole, and pairs of accuracies with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .scales import Scale
from .svg import add, drawing, markup

WIDTH, ROW, LEFT = 304, 34, 2


@dataclass(frozen=True)
class Shares:
    """A bar of parts that sum to 1, (name, share) in order; css_class: of its label."""

    label: str
    parts: Sequence[tuple[str, float]]
    css_class: str = ""


def shares_chart(title: str, bars: Sequence[Shares], shades: Mapping[str, str]) -> Markup:
    """A bar a row under its label; ``shades`` are the parts' CSS classes."""
    words = "; ".join(f"{bar.label}: " + ", ".join(f"{name} {100 * s:.1f}%" for name, s in bar.parts) for bar in bars)
    top = drawing(WIDTH, ROW * len(bars) + 6, title, words)
    x = Scale(0, 1, LEFT, WIDTH - LEFT)
    for i, bar in enumerate(bars):
        y = ROW * i + 14
        add(top, "text", bar.label, x=LEFT, y=y - 3, class_=f"name {bar.css_class}")
        at = 0.0
        for name, share in bar.parts:
            left, right = x(at), x(at + share)
            at += share
            if right - left < 0.05:
                continue
            add(top, "rect", x=left, y=y, width=right - left, height=13, class_=shades[name])
            if right - left > 20:
                inside = f"{100 * share:.0f}"
                of = f"on-{shades[name]}"
                add(top, "text", inside, x=(left + right) / 2, y=y + 10, text_anchor="middle", class_=of)
    return markup(top)


@dataclass(frozen=True)
class Bar:
    """Args: value: in [0, 1]; low, high: of its interval."""

    label: str
    value: float
    css_class: str
    low: float | None = None
    high: float | None = None


def bars_chart(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> Markup:
    """Groups of bars from 0 to 100%, each with its figure at the end."""
    rows = sum(len(bars) for _, bars in groups)
    height = 16 * rows + 24 * len(groups) + 20
    words = "; ".join(f"{name}: " + ", ".join(f"{b.label} {100 * b.value:.1f}%" for b in bars) for name, bars in groups)
    top = drawing(WIDTH, height, title, words)
    x = Scale(0, 1, LEFT, WIDTH - 44)
    y = 0.0
    for tick in (0, 0.25, 0.5, 0.75, 1):
        add(top, "line", x1=x(tick), x2=x(tick), y1=6, y2=height - 16, class_="grid")
        add(top, "text", f"{100 * tick:.0f}", x=x(tick), y=height - 3, text_anchor="middle")
    for name, bars in groups:
        y += 24
        add(top, "text", name, x=LEFT, y=y - 5, class_="name strong")
        for bar in bars:
            group = add(top, "g", class_=bar.css_class)
            add(group, "rect", x=x(0), y=y, width=max(x(bar.value) - x(0), 0.8), height=11, class_="fill")
            if bar.low is not None and bar.high is not None:
                add(group, "line", x1=x(bar.low), x2=x(bar.high), y1=y + 5.5, y2=y + 5.5, class_="whisker")
            at = max(x(bar.value), x(bar.high) if bar.high is not None else 0.0) + 6
            add(top, "text", f"{100 * bar.value:.1f}", x=at, y=y + 9)
            y += 16
    return markup(top)


def histogram(title: str, above: Sequence[float], below: Sequence[float], css_class: str) -> Markup:
    """Two distributions over [0, 1] back to back, each in shares of its own whole, both to one scale."""
    most = max([*above, *below, 1e-9])
    tall = [96 * max([*side, 0.0]) / most for side in (above, below)]
    middle = tall[0] + 6
    foot = middle + max(tall[1], 18) + 18
    top = drawing(WIDTH, foot, title, f"the largest bin holds {100 * most:.0f}% of its side")
    x = Scale(0, 1, LEFT + 6, WIDTH - LEFT - 6)
    step = (x.end - x.start) / max(len(above), 1)
    group = add(top, "g", class_=css_class)
    for values, side, shade in ((above, -1, "fill"), (below, 1, "hollow")):
        for i, share in enumerate(values):
            height = max(96 * share / most, 0.6)
            if share > 0:
                left, at = x.start + i * step + 0.7, middle - height if side < 0 else middle
                add(group, "rect", x=left, y=at, width=step - 1.4, height=height, class_=shade)
    add(top, "line", x1=x.start, x2=x.end, y1=middle, y2=middle, class_="axis")
    add(top, "text", "right", x=x.start, y=middle - 5)
    add(top, "text", "wrong", x=x.start, y=middle + 13)
    for tick in (0, 0.5, 1):
        anchor = {0: "start", 0.5: "middle", 1: "end"}[tick]
        add(top, "text", f"{100 * tick:.0f}%", x=x(tick), y=foot - 3, text_anchor=anchor)
    return markup(top)


def interval_mark(value: float, low: float | None, high: float | None, span: float, css_class: str) -> Markup:
    """A small interval about zero, for a table's cell; ``span`` is the largest distance shown."""
    top = drawing(120, 14, "interval", "")
    x = Scale(-span, span, 4, 116)
    add(top, "line", x1=x(0), x2=x(0), y1=0, y2=14, class_="zero")
    group = add(top, "g", class_=css_class)
    if low is not None and high is not None:
        add(group, "line", x1=x(low), x2=x(high), y1=7, y2=7, class_="whisker")
    add(group, "circle", cx=x(value), cy=7, r=3, class_="mark")
    return markup(top)
