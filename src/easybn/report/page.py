"""What a section of the page is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from ..paper.claims import Judged, judge
from ..recipes import RECIPES
from ..tables.aggregate import RecipeRuns, Setting, settings
from ..tables.rows import Rows, RunRows
from ..tables.table import Table

# One colour a recipe on the whole page, a dash for each of its variants; told apart by the colour-blind too.
#
# A recipe's colour is a field of its class. The hues there and here are those of Okabe and Ito (2008), darkened on
# white and lightened on black until text of them can be read.

OTHERS = (("#5d5bb8", "#a9a7ff"), ("#7d5a3c", "#d3ab86"), ("#3d7d1f", "#9ad876"), ("#9c2f3d", "#ff9099"))
DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Colours:
    """Args: classes: {label of a recipe: CSS class}; dashes: {label: stroke-dasharray}; pairs: {class: colours}."""

    classes: dict[str, str]
    dashes: dict[str, str]
    pairs: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, settings: Sequence[Setting]) -> "Colours":
        """For all recipes of the page."""
        every = [recipe for setting in settings for recipe in setting.recipes]
        methods = list(dict.fromkeys(recipe.method for recipe in every))
        known = {name: recipe.colour for name, recipe in RECIPES.items() if recipe.colour is not None}
        pairs = known | {recipe.method: recipe.colour for recipe in every if recipe.colour is not None}
        without = [method for method in methods if method not in pairs]
        pairs |= {method: OTHERS[i % len(OTHERS)] for i, method in enumerate(without)}
        numbers = {method: f"r{i}" for i, method in enumerate(pairs)}
        dashes: dict[str, str] = {}
        for method in methods:
            of = list(dict.fromkeys(recipe.label for recipe in every if recipe.method == method))
            dashes |= {label: DASHES[i % len(DASHES)] for i, label in enumerate(of)}
        return cls(
            {recipe.label: numbers[recipe.method] for recipe in every},
            dashes,
            {numbers[method]: pairs[method] for method in methods},
        )

    def css(self) -> str:
        """The rules of both themes; ``color`` is the recipe's, so that lines and swatches are drawn in it."""
        light = " ".join(f".{name}{{color:{pair[0]}}}" for name, pair in self.pairs.items())
        dark = " ".join(f".{name}{{color:{pair[1]}}}" for name, pair in self.pairs.items())
        return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}"

    def css_class(self, recipe: RecipeRuns | str) -> str:
        return self.classes.get(recipe if isinstance(recipe, str) else recipe.label, "")

    def dash(self, recipe: RecipeRuns | str) -> str:
        return self.dashes.get(recipe if isinstance(recipe, str) else recipe.label, "")


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
