"""What a section of the page is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from ..claims.claims import Judged, judge
from ..over_seeds.layout import Table
from ..over_seeds.recipes import RecipeRuns, Setting, settings
from ..over_seeds.rows import Rows, RunRows
from .colours import Colours


@dataclass(frozen=True, eq=False)
class Material:
    """All that sections are made from: rows, sorted."""

    rows: Rows
    settings: Sequence[Setting]
    judged: Sequence[Judged]
    colours: Colours

    @classmethod
    def of(cls, rows: Rows) -> "Material":
        found = settings(rows.runs, rows.across)
        return cls(rows, found, judge(rows), Colours.of(found))


@dataclass(frozen=True)
class Key:
    """A line of a legend."""

    label: str
    css_class: str
    dash: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing under its title; keys: what its shades are."""

    title: str
    svg: Markup
    caption: str = ""
    css_class: str = ""
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class Block:
    """A part of a section.

    Args:
        kind: "figures", "table" or "text", or the name of a macro of the template.
        title: above it.
        caption: below it.
        figures, legend: of "figures".
        table: of "table"; marks: a drawing of each line's interval.
        folded: shown on request.
        content: of other kinds.
    """

    kind: str
    title: str = ""
    caption: str = ""
    figures: Sequence[Figure] = ()
    legend: Sequence[Key] = ()
    table: Table | None = None
    marks: Sequence[Markup] = ()
    folded: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A section: its blocks, or in one line what is missing and the command that makes it."""

    id: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = ()
    missing: str = ""


def legend(setting: Setting, colours: Colours) -> list[Key]:
    """The recipes of a setting in their colours."""
    return [Key(each.label, colours.css_class(each), colours.dash(each)) for each in setting.recipes]


def first_run(recipe: RecipeRuns) -> RunRows:
    """Of the smallest seed."""
    return next(iter(recipe.runs.values()))
