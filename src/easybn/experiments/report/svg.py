"""SVG elements inside an HTML page: text is escaped, colours come from the page's style sheet."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from markupsafe import Markup

from ...escapes import escaped

Element = ET.Element


def drawing(width: float, height: float, title: str, description: str) -> Element:
    """An image of ``width`` x ``height`` units that scales to the room it has; what it shows is said in words too."""
    top = ET.Element("svg", {"viewBox": f"0 0 {number(width)} {number(height)}", "role": "img", "class": "chart"})
    top.set("aria-label", f"{title}. {description}" if description else title)
    add(top, "title").text = title
    if description:
        add(top, "desc").text = description
    return top


def add(parent: Element, tag: str, words: str | None = None, **attributes: float | str) -> Element:
    """A child; ``class_`` is class, ``stroke_width`` is stroke-width, and numbers are written short."""
    found = {name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value)
             for name, value in attributes.items()}  # fmt: skip
    child = ET.SubElement(parent, tag, found)
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
    """The element as a part of a page."""
    return Markup(escaped(ET.tostring(element, encoding="unicode")))  # ElementTree has escaped all text and attributes
