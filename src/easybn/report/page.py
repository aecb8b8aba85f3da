"""The report: one HTML page with all sections, a table of contents, one style sheet and one small script.

The page is self-contained: nothing is fetched from anywhere.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..escapes import escaped
from ..tables.formats import html
from ..tables.rows import Rows, read
from ..tables.table import TableRow
from .elements import Block, Colours, Material
from .sections import all_sections


def report(folder: Path | str, title: str = "", across: Sequence[str] = ()) -> str:
    """The HTML page about all runs and stacked experiments in ``folder``.

    Args:
        title: of the page; by default the folder's name.
        across: fields in which compared recipes may differ, see :class:`easybn.tables.rows.Rows`.

    Raises:
        FileNotFoundError, ValueError: no runs, or a damaged file; see :func:`easybn.tables.rows.read`.
    """
    return page(read(folder, across), title or Path(folder).resolve().name)


def page(rows: Rows, title: str) -> str:
    """The HTML of ``rows``."""
    material = Material.of(rows)
    sections = [(section, section.make(material)) for section in all_sections()]
    script = _file("sort.js")
    return _environment().get_template("page.html.j2").render(
        title=title,
        version=__version__,
        facts=_facts(material),
        sections=sections,
        swatch=swatch,
        recipe=lambda label: recipe_label(label, material.colours),
        html_table=lambda block: html_table(block, material.colours),
        style=Markup(_file("style.css") + material.colours.css()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def html_table(block: Block, colours: Colours) -> Markup:
    """A table's block, with a recipe's colour before its name and the drawings of the differences."""
    assert block.table is not None

    def label(row: TableRow) -> str:
        return recipe_label(row.label, colours) if row.recipe == row.label else Markup.escape(escaped(row.label))

    return Markup(html(block.table, label, {"difference": block.marks} if block.marks else {}))


def recipe_label(text: str, colours: Colours) -> Markup:
    """The text; if it is the label of a recipe, with its colour before it."""
    colour = colours.css_class(text)
    return (swatch(colour, colours.dash(text)) if colour else Markup("")) + escaped(text)


def swatch(css_class: str, dash: str) -> Markup:
    """A short line in a recipe's colour and dash."""
    dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else ""
    return Markup(
        '<svg class="swatch {}" viewBox="0 0 22 8" aria-hidden="true"><path d="M0 4H22" class="curve"{}/></svg>'
    ).format(css_class, dashed)


def _facts(material: Material) -> list[str]:
    """How many runs, recipes, seeds and data sets there are, for the head of the page."""
    runs, recipes = material.rows.runs, [recipe for setting in material.settings for recipe in setting.recipes]
    stacked = len(material.rows.stacked)
    experiments = [f"{stacked} stacked experiment{'s' * (stacked != 1)}"] if stacked else []
    if not runs:
        return experiments
    methods, seeds = len({recipe.method for recipe in recipes}), sorted({len(recipe.runs) for recipe in recipes})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    counts = [f"{len(runs)} run{'s' * (len(runs) != 1)}", f"{methods} recipe{'s' * (methods != 1)}"]
    return [*counts, f"{many} seed{'s' * (many != '1')} each", *sorted({run.data for run in runs}), *experiments]


def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Makes control characters in names that others gave visible."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
