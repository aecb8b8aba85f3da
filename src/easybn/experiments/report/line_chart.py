"""Curves with bands in one frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .scales import Scale, short, spread
from .svg import Element, add, drawing, line, markup

WIDTH, HEIGHT = 304, 214
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 8, 38


@dataclass(frozen=True)
class Point:
    """Args: low, high: of its band; None for none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A curve.

    Args:
        label: what it is.
        points: by x; those that are not finite are left out.
        css_class: of its colour.
        dash: stroke-dasharray.
        thin: one of several alike.
        tag: written at its end.
        marks: a dot at each point.
    """

    label: str
    points: Sequence[Point]
    css_class: str = ""
    dash: str = ""
    thin: bool = False
    tag: str = ""
    marks: bool = True


@dataclass(frozen=True)
class Chart:
    """A frame with its axes.

    Args:
        title: for those who do not see it.
        x, y: what the axes are.
        series: what is drawn, the last on top.
        y_range: by default from the smallest to the largest value of all points.
        x_ticks: by default round numbers.
        percent: the y axis in percent.
        log: the y axis logarithmic.
        room: at the right end, for tags.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    y_range: tuple[float, float] | None = None
    x_ticks: Sequence[tuple[float, str]] | None = None
    percent: bool = False
    log: bool = False
    room: float = 0

    def svg(self) -> Markup:
        """The drawing, with its figures in words."""
        every = [point for each in self.series for point in finite(each.points)]
        top = drawing(WIDTH, HEIGHT, self.title, described(self.series, self.percent) if every else "No figures.")
        if not every:
            return markup(top)
        xs = [point.x for point in every]
        low, high = self.y_range or _range(every, self.log)
        x = Scale(min(xs), max(xs), LEFT + 6, WIDTH - RIGHT - self.room - 6)
        y = Scale(low, high, HEIGHT - BOTTOM, TOP, self.log)
        self._axes(top, x, y)
        for each in self.series:
            _draw(add(top, "g", class_=each.css_class), each, x, y)
        tagged = [each for each in self.series if each.tag and finite(each.points)]
        places = spread([y(finite(each.points)[-1].y) for each in tagged], 12, TOP + 4, HEIGHT - BOTTOM)
        for each, place in zip(tagged, places, strict=True):
            add(top, "text", each.tag, x=x.end + 8, y=place + 3.5, class_=f"tag {each.css_class}")
        return markup(top)

    def _axes(self, top: Element, x: Scale, y: Scale) -> None:
        for tick in y.ticks:
            add(top, "line", x1=LEFT, x2=WIDTH - RIGHT - self.room, y1=y(tick), y2=y(tick), class_="grid")
            words = f"{100 * tick:.3g}" if self.percent else short(tick)
            add(top, "text", words, x=LEFT - 6, y=y(tick) + 3.5, text_anchor="end")
        ticks = self.x_ticks if self.x_ticks is not None else self._numbers(x)
        for place, words in ticks:
            add(top, "line", x1=x(place), x2=x(place), y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4, class_="axis")
            add(top, "text", words, x=x(place), y=HEIGHT - BOTTOM + 16, text_anchor="middle")
        add(top, "line", x1=LEFT, x2=WIDTH - RIGHT - self.room, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis")
        middle = (LEFT + WIDTH - RIGHT - self.room) / 2
        add(top, "text", self.x, x=middle, y=HEIGHT - 6, text_anchor="middle", class_="name")
        height = (TOP + HEIGHT - BOTTOM) / 2
        turned = f"rotate(-90 10 {height})"
        add(top, "text", self.y, x=10, y=height, text_anchor="middle", transform=turned, class_="name")

    def _numbers(self, x: Scale) -> list[tuple[float, str]]:
        """Round numbers; whole ones where all points are at whole numbers."""
        whole = all(point.x == int(point.x) for each in self.series for point in finite(each.points))
        return [(tick, short(tick)) for tick in x.ticks if not whole or tick == int(tick)]


def finite(points: Sequence[Point]) -> list[Point]:
    """Those that can be drawn."""
    return [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]


def described(series: Sequence[Series], percent: bool) -> str:
    """Where each curve begins and ends, in words."""
    words = []
    for each in series:
        points = finite(each.points)
        if points and not each.thin:
            first, last = (f"{100 * p.y:.1f}%" if percent else f"{p.y:.3g}" for p in (points[0], points[-1]))
            words.append(f"{each.label}: {first} at {points[0].x:.3g}, {last} at {points[-1].x:.3g}")
    return "; ".join(words)


def _draw(group: Element, each: Series, x: Scale, y: Scale) -> None:
    points = finite(each.points)
    band = [point for point in points if point.low is not None and point.high is not None]
    if len(band) > 1:
        upper = [(x(p.x), y(p.high)) for p in band if p.high is not None]
        lower = [(x(p.x), y(p.low)) for p in reversed(band) if p.low is not None]
        line(group, upper + lower, class_="band")
    if len(points) > 1:
        dash = {"stroke_dasharray": each.dash} if each.dash else {}
        line(group, [(x(p.x), y(p.y)) for p in points], class_="thin" if each.thin else "curve", **dash)
    if each.marks or len(points) == 1:
        for point in points:
            add(group, "circle", cx=x(point.x), cy=y(point.y), r=2.6, class_="mark")


def _range(points: Sequence[Point], log: bool) -> tuple[float, float]:
    values = [value for p in points for value in (p.y, p.low, p.high) if value is not None and math.isfinite(value)]
    if log:
        values = [value for value in values if value > 0] or [1.0]
        return min(values) * 0.8, max(values) * 1.25
    low, high = min(0.0, *values), max(values)
    return low, high + 0.05 * (high - low) if high > low else low + 1
