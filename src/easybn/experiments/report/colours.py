"""One colour a recipe on the whole page, a dash for each of its variants; told apart by the colour-blind too.

The hues are those of Okabe and Ito (2008), darkened on white and lightened on black until text of them can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..over_seeds.recipes import ORDER, RecipeRuns, Setting

PAPER_COLOURS = {  # recipe: (on white, on black)
    "Vanilla": ("#66707c", "#a9b4c0"),
    "AdvProp": ("#c65200", "#ff9a52"),
    "EBN": ("#0069a8", "#62b6f7"),
    "EBNShared": ("#00805c", "#3fcf9f"),
    "AdvPropEBN": ("#a8477f", "#e795c4"),
    "FastAdvProp": ("#8f6a00", "#e3b63c"),
    "FastEBN": ("#1e8fc4", "#a6dcfa"),
    "AdversarialTraining": ("#1d2126", "#f0f2f4"),
}
OTHERS = (("#5d5bb8", "#a9a7ff"), ("#7d5a3c", "#d3ab86"), ("#3d7d1f", "#9ad876"), ("#9c2f3d", "#ff9099"))
DASHES = ("", "6 3", "2 3", "8 3 2 3")
assert tuple(PAPER_COLOURS) == ORDER


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
        new = [method for method in methods if method not in PAPER_COLOURS]
        pairs = PAPER_COLOURS | {method: OTHERS[i % len(OTHERS)] for i, method in enumerate(new)}
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
