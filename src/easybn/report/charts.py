"""Charts as SVG elements of the page: curves with bands, bars, histograms and small intervals.

Text is escaped; colours come from the page's style sheet. Each chart describes in words what it shows, for readers who
do not see it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from xml.etree import ElementTree as ET

from markupsafe import Markup

from ..escapes import escaped

# SVG elements.

Element = ET.Element


def drawing(width: float, height: float, title: str, description: str) -> Element:
    """An image of ``width`` x ``height`` units that scales to the available room, with a description in words."""
    top = ET.Element("svg", {"viewBox": f"0 0 {number(width)} {number(height)}", "role": "img", "class": "chart"})
    top.set("aria-label", f"{title}. {description}" if description else title)
    add(top, "title").text = title
    if description:
        add(top, "desc").text = description
    return top


def add(parent: Element, tag: str, words: str | None = None, **attributes: float | str) -> Element:
    """Add a child; ``class_`` is written class, ``stroke_width`` stroke-width, and numbers with one digit."""
    texts = {name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value)
             for name, value in attributes.items()}  # fmt: skip
    child = ET.SubElement(parent, tag, texts)
    child.text = words
    return child


def line(parent: Element, points: Sequence[tuple[float, float]], **attributes: float | str) -> Element:
    """A path through ``points``."""
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return add(parent, "path", None, d=path, fill="none", **attributes)


def number(value: float) -> str:
    """At most one digit after the point: a tenth of a pixel."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if value != int(value) else str(int(value))


def markup(element: Element) -> Markup:
    """The element as markup for a page."""
    return Markup(escaped(ET.tostring(element, encoding="unicode")))  # ElementTree has escaped all text and attributes


# From numbers to positions, and where to put ticks.


@dataclass(frozen=True)
class Scale:
    """Maps numbers in low .. high to positions from ``start`` to ``end``; log: by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._at(self.low), self._at(self.high)
        share = (self._at(value) - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _at(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    @property
    def ticks(self) -> list[float]:
        """Round numbers inside the range."""
        return decades(self.low, self.high) if self.log else nice(self.low, self.high)


def nice(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 times them where fewer than three fit."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    tens = [10.0**i for i in range(first, last + 1)]
    inside = [value for value in tens if low <= value * 1.001 and value <= high * 1.001]
    if len(inside) >= 3:
        return inside
    return [value * factor for value in tens for factor in (1, 2, 5) if low * 0.999 <= value * factor <= high * 1.001]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the given ones, at least ``gap`` apart and inside low .. high if there is room: for labels."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    out = [0.0] * len(positions)
    at = low - gap
    for i in order:
        at = max(positions[i], at + gap)
        out[i] = at
    over = at - high
    for i in reversed(order):
        if over <= 0:
            break
        out[i] = min(out[i], high)
        high -= gap
    return out


def short(value: float) -> str:
    """For an axis: 0.001, 0.5, 12, 1e-5."""
    if value == 0 or 1e-4 < abs(value) < 1e5:
        return f"{value:.3g}"
    digit, _, power = f"{value:.0e}".partition("e")
    return f"{digit}e{int(power)}"


# Curves with bands, in a frame with axes.

WIDTH, HEIGHT = 304, 214
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 8, 38


@dataclass(frozen=True)
class Point:
    """Args: low, high: of its band; None for none. x_low, x_high: the same along x. label: its name, if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """A curve.

    Args:
        label: its name.
        points: by x; those that are not finite are left out.
        css_class: of its colour.
        dash: stroke-dasharray.
        thin: one of several alike; of whiskers: fine lines in the colour of the curve.
        tag: text at its end.
        marks: draw a dot at each point.
        whiskers: draw each point's low and high as a line of its own instead of a band.
        joined: draw a curve through the points.
    """

    label: str
    points: Sequence[Point]
    css_class: str = ""
    dash: str = ""
    thin: bool = False
    tag: str = ""
    marks: bool = True
    whiskers: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Chart:
    """Curves in a frame with axes.

    Args:
        title: for readers who do not see it.
        x, y: labels of the axes.
        series: the curves, the last on top.
        y_range: by default from the smallest to the largest value of all points.
        x_ticks: by default round numbers.
        percent: the y axis in percent.
        log: the y axis logarithmic.
        room: kept free at the right end, for tags.
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
        """The drawing, with its numbers in words."""
        every = [point for each in self.series for point in finite(each.points)]
        top = drawing(WIDTH, HEIGHT, self.title, described(self.series, self.percent) if every else "No figures.")
        if not every:
            return markup(top)
        xs = [value for p in every for value in (p.x, p.x_low, p.x_high) if value is not None]
        low, high = self.y_range or value_range(every, self.log)
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


EDGE = 14  # around the chart in a file of its own, for labels that reach beyond it
STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#58616b}.name{fill:#1b1f24}.grid{stroke:#d9dee4;stroke-width:.7}"
    ".axis{stroke:#58616b;stroke-width:.9}.curve{stroke:currentColor;stroke-width:1.6;fill:none;stroke-linejoin:round}"
    ".note{font-size:9px}.band{fill:currentColor;opacity:.15;stroke:none}.mark{fill:currentColor}.whisker{stroke:currentColor}"
)


def svg_file(chart: Chart, lines: Sequence[tuple[str, str]], colours: Mapping[str, str]) -> str:
    """The text of an SVG file that needs no page around it.

    Args:
        chart: what is drawn.
        lines: below it, (CSS class of a swatch or "", text): the legend and what is to be known.
        colours: by CSS class.
    """
    inner = ET.fromstring(str(chart.svg()))
    rows = [(css_class if i == 0 else "", bool(css_class), text) for css_class, words in lines
            for i, text in enumerate(wrap(escaped(words), 48 if css_class else 62))]  # fmt: skip
    height, width = HEIGHT + 14 * len(rows) + 10, WIDTH + 2 * EDGE
    top = drawing(width, height, str(inner.get("aria-label")), "")
    top.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "width": str(2 * width), "height": str(2 * height)}
    add(top, "style", STYLE + "".join(f".{name}{{color:{colour}}}" for name, colour in colours.items()))
    add(top, "rect", width=width, height=height, fill="#fff")
    moved = add(top, "g", transform=f"translate({EDGE} 0)")
    moved.extend(each for each in inner if each.tag not in ("title", "desc"))
    for i, (css_class, named, text) in enumerate(rows):
        y = HEIGHT + 14 * i + 10
        if css_class:
            line(add(moved, "g", class_=css_class), [(2, y - 3.5), (18, y - 3.5)], class_="curve")
        add(moved, "text", text, x=24 if named else 2, y=y, class_="name" if named else "note")
    return ET.tostring(top, encoding="unicode") + "\n"


def finite(points: Sequence[Point]) -> list[Point]:
    """The points that can be drawn."""
    return [point for point in points if math.isfinite(point.x) and math.isfinite(point.y)]


def described(series: Sequence[Series], percent: bool) -> str:
    """Where each curve begins and ends, in words."""
    words = []
    for each in series:
        points = finite(each.points)
        if points and not each.thin and each.joined:
            first, last = (f"{100 * p.y:.1f}%" if percent else f"{p.y:.3g}" for p in (points[0], points[-1]))
            words.append(f"{each.label}: {first} at {points[0].x:.3g}, {last} at {points[-1].x:.3g}")
    return "; ".join(words)


def _draw(group: Element, each: Series, x: Scale, y: Scale) -> None:
    points = finite(each.points)
    band = [point for point in points if point.low is not None and point.high is not None]
    if each.whiskers:
        css_class = "thin" if each.thin else "whisker"
        for point in band:
            line(group, [(x(point.x), y(point.low or 0.0)), (x(point.x), y(point.high or 0.0))], class_=css_class)
            if point.x_low is not None and point.x_high is not None:
                line(group, [(x(point.x_low), y(point.y)), (x(point.x_high), y(point.y))], class_=css_class)
    elif len(band) > 1:
        upper = [(x(p.x), y(p.high)) for p in band if p.high is not None]
        lower = [(x(p.x), y(p.low)) for p in reversed(band) if p.low is not None]
        line(group, upper + lower, class_="band")
    if len(points) > 1 and each.joined:
        dash = {"stroke_dasharray": each.dash} if each.dash else {}
        line(group, [(x(p.x), y(p.y)) for p in points], class_="thin" if each.thin else "curve", **dash)
    if each.marks or len(points) == 1:
        for point in points:
            mark = add(group, "circle", cx=x(point.x), cy=y(point.y), r=2.6, class_="mark")
            if point.label:
                add(mark, "title", f"{each.label}, {point.label}")  # shown where a mouse points at it


def value_range(points: Sequence[Point], log: bool = False) -> tuple[float, float]:
    """A y axis on which all points and their bands are seen; with 0 on it unless it is logarithmic."""
    values = [value for p in points for value in (p.y, p.low, p.high) if value is not None and math.isfinite(value)]
    if log:
        values = [value for value in values if value > 0] or [1.0]
        return min(values) * 0.8, max(values) * 1.25
    low, high = min(0.0, *values), max(values)
    return low, high + 0.05 * (high - low) if high > low else low + 1


# Bars, histograms and intervals.

BARS_WIDTH, ROW, BARS_LEFT = 304, 34, 2


@dataclass(frozen=True)
class Shares:
    """A bar of parts that sum to 1, (name, share) in order; css_class: of its label."""

    label: str
    parts: Sequence[tuple[str, float]]
    css_class: str = ""


def shares_chart(title: str, bars: Sequence[Shares], shades: Mapping[str, str]) -> Markup:
    """A bar per row under its label; ``shades`` are the parts' CSS classes."""
    words = "; ".join(f"{bar.label}: " + ", ".join(f"{name} {100 * s:.1f}%" for name, s in bar.parts) for bar in bars)
    top = drawing(BARS_WIDTH, ROW * len(bars) + 6, title, words)
    x = Scale(0, 1, BARS_LEFT, BARS_WIDTH - BARS_LEFT)
    for i, bar in enumerate(bars):
        y = ROW * i + 14
        add(top, "text", bar.label, x=BARS_LEFT, y=y - 3, class_=f"name {bar.css_class}")
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
    """Groups of bars from 0 to 100%, each with its number at the end."""
    rows = sum(len(bars) for _, bars in groups)
    height = 16 * rows + 24 * len(groups) + 20
    words = "; ".join(f"{name}: " + ", ".join(f"{b.label} {100 * b.value:.1f}%" for b in bars) for name, bars in groups)
    top = drawing(BARS_WIDTH, height, title, words)
    x = Scale(0, 1, BARS_LEFT, BARS_WIDTH - 44)
    y = 0.0
    for tick in (0, 0.25, 0.5, 0.75, 1):
        add(top, "line", x1=x(tick), x2=x(tick), y1=6, y2=height - 16, class_="grid")
        add(top, "text", f"{100 * tick:.0f}", x=x(tick), y=height - 3, text_anchor="middle")
    for name, bars in groups:
        y += 24
        add(top, "text", name, x=BARS_LEFT, y=y - 5, class_="name strong")
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
    """Two distributions over [0, 1] back to back, each in shares of its own total, both on one scale."""
    most = max([*above, *below, 1e-9])
    tall = [96 * max([*side, 0.0]) / most for side in (above, below)]
    middle = tall[0] + 6
    foot = middle + max(tall[1], 18) + 18
    top = drawing(BARS_WIDTH, foot, title, f"the largest bin holds {100 * most:.0f}% of its side")
    x = Scale(0, 1, BARS_LEFT + 6, BARS_WIDTH - BARS_LEFT - 6)
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
    """A small interval around zero, for a table's cell; ``span`` is the largest distance shown."""
    top = drawing(120, 14, "interval", "")
    x = Scale(-span, span, 4, 116)
    add(top, "line", x1=x(0), x2=x(0), y1=0, y2=14, class_="zero")
    group = add(top, "g", class_=css_class)
    if low is not None and high is not None:
        add(group, "line", x1=x(low), x2=x(high), y1=7, y2=7, class_="whisker")
    add(group, "circle", cx=x(value), cy=7, r=3, class_="mark")
    return markup(top)
