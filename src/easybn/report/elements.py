"""What the report's page is made of: sections of blocks, with figures and tables in the recipes' colours.

A section is a function with :func:`section` before it, in any file of sections/: no other file lists it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from ..paper.claims import Judged, judge
from ..recipes import RECIPES
from ..rows import is_colour_pair
from ..tables.aggregate import RecipeRuns, Setting, settings
from ..tables.rows import Rows, RunRows
from ..tables.table import Table

# One colour per recipe on the whole page, a dash for each of its variants; also for readers who are colour-blind. A
# recipe's colour is a field of its class. The hues there and here are those of Okabe and Ito (2008), darkened on white
# and lightened on black until text in them can be read.

OTHERS = (("#5d5bb8", "#a9a7ff"), ("#7d5a3c", "#d3ab86"), ("#3d7d1f", "#9ad876"), ("#9c2f3d", "#ff9099"))
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # of a recipe's variants
BRANCH_DASHES = ("", "5 3", "2 3", "8 3 2 3")  # of the branches of one model, or pairs of them


@dataclass(frozen=True)
class Colours:
    """The recipes' colours and dashes, and the colours of users' attacks.

    Args:
        classes: CSS class by label of the recipe.
        dashes: stroke-dasharray by label.
        pairs: by CSS class its colours on white and on black.
        attacks: CSS class by name of an attack that has a colour of its own.
    """

    classes: dict[str, str]
    dashes: dict[str, str]
    pairs: dict[str, tuple[str, str]]
    attacks: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Sequence[Setting]) -> "Colours":
        """Colours and dashes for all recipes of the page."""
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
        attacks = {
            name: tuple(appearance["colour"])
            for setting in settings
            for name, appearance in attack_appearances(setting).items()
            if is_colour_pair(appearance.get("colour"))
        }
        attack_classes = {name: f"attack{i}" for i, name in enumerate(attacks)}
        return cls(
            {recipe.label: numbers[recipe.method] for recipe in every},
            dashes,
            {numbers[method]: pairs[method] for method in methods}
            | {attack_classes[name]: pair for name, pair in attacks.items()},
            attack_classes,
        )

    def css(self) -> str:
        """The rules of both themes; ``color`` is the recipe's, so that lines and swatches are drawn in it."""
        light = " ".join(f".{name}{{color:{pair[0]}}}" for name, pair in self.pairs.items())
        light += " " + " ".join(
            f".{name}{{fill:currentColor;background:currentColor}}" for name in self.attacks.values()
        )
        dark = " ".join(f".{name}{{color:{pair[1]}}}" for name, pair in self.pairs.items())
        return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}"

    def css_class(self, recipe: RecipeRuns | str) -> str:
        return self.classes.get(recipe if isinstance(recipe, str) else recipe.label, "")

    def dash(self, recipe: RecipeRuns | str) -> str:
        return self.dashes.get(recipe if isinstance(recipe, str) else recipe.label, "")


def attack_appearances(setting: Setting) -> dict[str, Mapping[str, Any]]:
    """Label, colour and order of users' attacks by name, as stored with their scores."""
    scores = (score for recipe in setting.recipes for run in recipe.runs.values() for score in run.scores)
    stored = [score["appearance"] for score in scores if isinstance(score.get("appearance"), dict)]
    return {name: shown for attacks in stored for name, shown in attacks.items() if isinstance(shown, dict)}


@dataclass(frozen=True, eq=False)
class Material:
    """What sections are made from: all rows, and the same by setting and recipe, with the claims' verdicts."""

    rows: Rows
    settings: Sequence[Setting]
    judged: Sequence[Judged]
    colours: Colours

    @classmethod
    def of(cls, rows: Rows) -> "Material":
        by_setting = settings(rows.runs, rows.across)
        return cls(rows, by_setting, judge(rows), Colours.of(by_setting))


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    label: str
    css_class: str
    dash: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawing under its title; keys: the legend of its shades."""

    title: str
    svg: Markup
    caption: str = ""
    css_class: str = ""
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class Block:
    """A part of a section.

    Args:
        kind: "figures", "table", "text", "html" (of ``content["html"]``), or the name of a macro of the template.
        title: above it.
        caption: below it.
        figures, legend: of "figures".
        table: of "table"; marks: for each of its rows a drawing of the interval.
        folded: if not empty, the block is folded under these words.
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
class Content:
    """What a section shows.

    Args:
        blocks: its parts.
        missing: in one line what is missing, and the command that makes it.
        lead: a first paragraph in the place of the section's own.
    """

    blocks: Sequence[Block] = ()
    missing: str = ""
    lead: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        id: its anchor.
        title: its heading, also in the table of contents.
        order: its place on the page; smaller numbers come first.
        lead: the first paragraph, shown if there is anything to show.
        make: makes its content.
    """

    id: str
    title: str
    order: int
    lead: str
    make: Callable[["Material"], Content]


SECTIONS: dict[str, Section] = {}
"""The sections whose files were imported; :func:`easybn.report.sections.all_sections` imports all."""


def section(
    id: str, title: str, order: int, lead: str = ""
) -> Callable[[Callable[["Material"], Content]], Callable[["Material"], Content]]:
    """Register a function as the section of that id; the arguments are those of :class:`Section`.

    Raises:
        ValueError: another function has the id.
    """

    def register(make: Callable[["Material"], Content]) -> Callable[["Material"], Content]:
        known = SECTIONS.get(id)
        if known and (known.make.__module__, known.make.__qualname__) != (make.__module__, make.__qualname__):
            raise ValueError(
                f"two sections of the report have the id {id!r}: {known.make.__module__} and {make.__module__}"
            )
        SECTIONS[id] = Section(id, title, order, lead, make)
        return make

    return register


def legend(setting: Setting, colours: Colours) -> list[Key]:
    """The recipes of a setting in their colours."""
    return [Key(each.label, colours.css_class(each), colours.dash(each)) for each in setting.recipes]


def first_run(recipe: RecipeRuns) -> RunRows:
    """The run of a recipe's smallest seed."""
    return next(iter(recipe.runs.values()))
