"""The frontier of clean against robust accuracy as a recipe's strength varies, and how far two frontiers lie apart.

A recipe with several strengths (an eps, a probability, a weight) gives several networks, and to compare two recipes at
one strength each says little: a smaller eps also buys clean accuracy with robust accuracy. The frontier of a recipe at
clean accuracy c is the best robust accuracy that it has at no less than c: the networks that no other of the recipe
beats in both, joined by straight lines (what choosing between two networks at random gives), and level to the left of
them down to the lowest clean accuracy that the recipe was measured at. Two frontiers are compared where both are known.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..perturb.eps import format_eps
from ..stats import Aggregate, PairedT, paired_t
from .aggregate import RecipeRuns, Setting, field_text, flat, radius_texts
from .comparison import paired_t_cells
from .rows import CLEAN, Column
from .table import Cell, Table, TableRow

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Frontier:
    """The monotone envelope of networks, each with its clean and its robust accuracy.

    Args:
        clean, robust: (k,) accuracies in [0, 1] of the k networks, in any order, k at least 1.
    """

    clean: Floats
    robust: Floats

    @cached_property
    def best(self) -> list[int]:
        """The networks that no other beats in both, by ascending clean accuracy; of equal ones the first."""
        found: list[int] = []
        for i in np.lexsort((-self.robust, -self.clean)).tolist():
            if not found or self.robust[i] > self.robust[found[-1]]:
                found.append(i)
        return found[::-1]

    @property
    def low(self) -> float:
        """The lowest clean accuracy that was measured."""
        return float(self.clean.min())

    @property
    def high(self) -> float:
        """The highest clean accuracy."""
        return float(self.clean.max())

    def at(self, clean: ArrayLike) -> Floats:
        """The frontier's robust accuracy at clean accuracies of :attr:`low` .. :attr:`high`, in their shape."""
        return np.interp(np.asarray(clean, float), self.clean[self.best], self.robust[self.best])

    def mean(self, low: float, high: float) -> float:
        """The area under the frontier between two clean accuracies, divided by their distance, which is positive."""
        corners = self.clean[self.best]
        places = np.unique([low, *corners[(low < corners) & (corners < high)], high])
        heights = self.at(places)
        return float(((heights[1:] + heights[:-1]) / 2 * np.diff(places)).sum() / (high - low))


def common_range(first: Frontier, second: Frontier) -> tuple[float, float] | None:
    """The clean accuracies at which both frontiers are known; None if there is no more than one."""
    low, high = max(first.low, second.low), min(first.high, second.high)
    return (low, high) if high > low else None


@dataclass(frozen=True)
class FrontierDifference:
    """The frontier of ``first`` minus that of ``second``, over the range of clean accuracy that both have.

    Args:
        low, high: the range, in [0, 1].
        first, second: their mean robust accuracies over it, that is, the areas under them over its width.
        mean: the difference of these, over seeds.
        middle: the difference at the middle of the range, over seeds.
    """

    low: float
    high: float
    first: float
    second: float
    mean: PairedT
    middle: PairedT


def difference(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike], resolution: float = 0.0
) -> FrontierDifference | None:
    """Compare the frontiers of the means over seeds, with jackknife intervals (Tukey, 1958), paired by seed.

    A frontier takes the best of several networks, and the best of single seeds is often the luckiest: so each strength
    is averaged over the seeds first. The whole comparison, its range included, is made again without each seed; from
    what that changes come the interval and a correction of the bias that choosing the best has. Of recipes with the
    same clean accuracies at every seed it is the paired t test. It covers the randomness of training, not the draw of
    the test images.

    Args:
        first, second: each (clean, robust), both of shape (seeds, strengths), the same seeds in the same order.
        resolution: accuracies are multiples of it, see :func:`easybn.stats.paired_t`.

    Returns:
        None if the two have no range of clean accuracy in common; the half widths and p are None for one seed, or if
        without one of the seeds they have no range in common.
    """
    pairs = [tuple(np.atleast_2d(np.asarray(each, float)) for each in recipe) for recipe in (first, second)]
    seeds = len(pairs[0][0])

    def compared(kept: list[int]) -> tuple[float, float, Frontier, Frontier] | None:
        one, other = (Frontier(clean[kept].mean(0), robust[kept].mean(0)) for clean, robust in pairs)
        found = common_range(one, other)
        return found and (*found, one, other)

    def values(kept: list[int]) -> tuple[float, float] | None:
        if (found := compared(kept)) is None:
            return None
        low, high, one, other = found
        middle = (low + high) / 2
        return one.mean(low, high) - other.mean(low, high), float(one.at(middle) - other.at(middle))

    every = list(range(seeds))
    whole, all_seeds = compared(every), values(every)
    if whole is None or all_seeds is None:
        return None
    low, high, one, other = whole
    without = [values([i for i in every if i != left_out]) for left_out in every] if seeds > 1 else []
    tests = []
    for which, estimate in enumerate(all_seeds):
        pseudo = [seeds * estimate - (seeds - 1) * each[which] for each in without if each is not None]
        complete = seeds > 1 and len(pseudo) == seeds
        tests.append(paired_t(pseudo, resolution) if complete else PairedT(estimate, None, None, seeds))
    return FrontierDifference(low, high, one.mean(low, high), other.mean(low, high), *tests)


# From the rows of runs: which recipes are strengths of one, and what was measured of them.


@dataclass(frozen=True, eq=False)
class Strengths:
    """The strengths of one recipe: recipes of one class that differ in numbers among the recipe's own fields.

    Args:
        label: the class's, and what else distinguishes it from others of the class.
        recipes: one or several strengths, in the order of the setting.
    """

    label: str
    recipes: Sequence[RecipeRuns]

    @property
    def names(self) -> dict[str, str]:
        """By label, what tells a strength from the others: ``8/255``, ``8/255, p 0.1``, with no more than it takes."""
        names = {each.label: "+".join(radius_texts(_experiment(each)["recipe"])) for each in self.recipes}
        if len(set(names.values())) == 1:
            names = dict.fromkeys(names, "")
        fields = {each.label: _fields(each) for each in self.recipes}
        for key in next(iter(fields.values())):
            if not key.startswith("recipe.") or key.rpartition(".")[2] == "eps":
                continue
            before = names.copy()
            for label, name in before.items():
                alike = [other for other, text in before.items() if text == name]
                if any(fields[other].get(key) != fields[label].get(key) for other in alike):
                    names[label] = ", ".join(filter(None, (name, field_text(key, fields[label].get(key)))))
        return names

    def measured(self, column: Column) -> list[tuple[RecipeRuns, Aggregate, Aggregate]]:
        """Each strength that has both, with its mean clean accuracy and that of ``column``."""
        means = [(recipe, recipe.accuracy(CLEAN), recipe.accuracy(column)) for recipe in self.recipes]
        return [(recipe, clean, robust) for recipe, clean, robust in means if clean and robust]


def strengths(setting: Setting, apart: Sequence[str] = ()) -> list[Strengths]:
    """The recipes of a setting as strengths of recipes, in the setting's order.

    Recipes with another learning rate, or with another text or truth value among their fields (a target, a kind of
    ball), are other recipes, not other strengths.

    Args:
        setting: of :func:`easybn.tables.aggregate.settings`.
        apart: numbers that tell recipes apart too, by the last part of the field's name, such as ``p``.
    """
    groups: dict[str, tuple[dict[str, Any], list[RecipeRuns]]] = {}
    fields = [_fields(recipe) for recipe in setting.recipes]
    for recipe, all_fields in zip(setting.recipes, fields, strict=True):
        # None is how runs trained before there was the field behave
        kept = {k: v for k, v in all_fields.items() if v is not None and not _is_strength(k, v, apart)}
        groups.setdefault(json.dumps(kept, sort_keys=True, default=str), (kept, []))[1].append(recipe)
    return [Strengths(_label(kept, recipes, list(groups.values())), recipes) for kept, recipes in groups.values()]


def field_names(settings: Sequence[Setting]) -> list[str]:
    """The last parts of the names of the recipes' fields, which ``apart`` may name."""
    every = [key for setting in settings for recipe in setting.recipes for key in _fields(recipe)]
    return sorted({key.rpartition(".")[2] for key in every if key.startswith("recipe.")} - {"class"})


def _fields(recipe: RecipeRuns) -> dict[str, Any]:
    """The fields that do not differ between its seeds."""
    ignored = ("data", "data_folder", "leave_out", "training.seed")
    return {key: value for key, value in flat(_experiment(recipe)).items() if key not in ignored}


def _experiment(recipe: RecipeRuns) -> Mapping[str, Any]:
    """That of its smallest seed."""
    return next(iter(recipe.runs.values())).experiment


def _is_strength(key: str, value: Any, apart: Sequence[str]) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return key.startswith("recipe.") and key.rpartition(".")[2] not in apart and (number or value is None)


def _label(kept: dict[str, Any], recipes: Sequence[RecipeRuns], groups: Sequence[tuple[dict[str, Any], Any]]) -> str:
    """The class, and each field in which it differs from another group of the class."""
    run = next(iter(recipes[0].runs.values()))
    alike = [fields for fields, others in groups if others[0].method == recipes[0].method]
    differing = [key for key in kept if any(fields.get(key) != kept[key] for fields in alike)]
    texts = [
        f"{key.rpartition('.')[2]} {value:g}" if isinstance(value := kept[key], float) else
        f"{key.rpartition('.')[2]} {str(value).rpartition('.')[2]}"
        for key in differing
    ]  # fmt: skip
    return ", ".join([str(run.appearance["label"]), *texts])


def robust_columns(setting: Setting) -> list[Column]:
    """The attacks and radii that any recipe of the setting was measured under, but for the library's own PGD."""
    rows = [row for recipe in setting.recipes for run in recipe.runs.values() for row in run.scores if row.get("eps")]
    keys = {(row["attack"], row.get("protocol"), row["norm"], round(float(row["eps"]), 9)) for row in rows}
    columns = []
    for attack, protocol, norm, eps in sorted(keys, key=lambda key: (key[2], key[0] != "pgd", key[0], key[3])):
        if protocol != "robustness":
            words = [attack, *([protocol] if protocol else []), norm, format_eps(eps, norm)]
            columns.append(Column(" ".join(words), attack, protocol, norm, eps))
    return columns


def compare_strengths(first: Strengths, second: Strengths, column: Column) -> FrontierDifference | None:
    """The difference of two recipes' frontiers in a column, over the seeds that both have.

    Of each recipe those strengths count that have all the seeds of both, measured on the same number of points.

    Returns:
        None if fewer than two strengths of either do, or they have no range of clean accuracy in common.
    """
    both = [_scores(each, column) for each in (first, second)]
    if not all(both):
        return None
    most = [max((set(seeds) for seeds in scores), key=len) for scores in both]
    seeds = sorted(most[0] & most[1])
    counts = Counter(
        (scores[seed][1], scores[seed][3]) for each in both for scores in each for seed in seeds if seed in scores
    )
    if not counts:
        return None
    ((points, _),) = counts.most_common(1)
    complete = [
        [scores for scores in each if all(seed in scores and scores[seed][1::2] == points for seed in seeds)]
        for each in both
    ]
    if min(map(len, complete)) < 2:
        return None
    first_clean, second_clean, first_robust, second_robust = (
        [[scores[seed][i] / scores[seed][i + 1] for scores in each] for seed in seeds]
        for i in (0, 2)
        for each in complete
    )
    return difference((first_clean, first_robust), (second_clean, second_robust), 1 / points[1])


def _scores(recipe: Strengths, column: Column) -> list[dict[int, tuple[int, int, int, int]]]:
    """For each strength by seed: clean points right, clean points, robust points right, robust points."""
    found = []
    for each in recipe.recipes:
        clean, robust = each.scores(CLEAN), each.scores(column)
        both = {
            seed: (clean[seed]["correct"], clean[seed]["n"], robust[seed]["correct"], robust[seed]["n"])
            for seed in clean if seed in robust
        }  # fmt: skip
        if both:
            found.append(both)
    return found


CAPTION = (
    "Robust accuracy in % along the frontier, the best that a recipe's strengths reach at no less than some clean "
    "accuracy: its mean over the range of clean accuracy that both recipes have (the area under the frontier over its "
    "width), the difference of the means in points of a percent, and that at the middle of the range. With jackknife "
    "95% intervals over the seeds, paired, and their p; nothing where there is one seed. A recipe with more strengths "
    "has more to choose from, which the interval corrects in part only."
)


def frontier_table(setting: Setting, apart: Sequence[str] = ()) -> Table:
    """Every recipe with at least two strengths against the first of them, in every column that was measured.

    Args:
        setting: whose recipes are compared; AdvProp, where it is there, is the first.
        apart: see :func:`strengths`.
    """
    several = [each for each in strengths(setting, apart) if len(each.recipes) > 1]
    rows = []
    for second in several[1:]:
        for column in robust_columns(setting):
            if cells := _cells(second, several[0], column):
                label = f"{second.label} \N{MINUS SIGN} {several[0].label}"
                rows.append(TableRow(label, cells, recipe=second.recipes[0].label))
    tests = ["seeds", "difference", "p", "at the middle", "p (middle)"]
    headings = ["column", "clean accuracy", "first", "second", *tests]
    title = f"{setting.title}: frontiers"
    numeric = [False, False, *[True] * 7]
    return Table(title, "First \N{MINUS SIGN} second", headings, rows, CAPTION, numeric)


def _cells(first: Strengths, second: Strengths, column: Column) -> list[Cell] | None:
    """A row's cells; None if it was not measured at two strengths of both."""
    found = compare_strengths(first, second, column)
    if found is not None:
        means = [Cell(f"{100 * value:.2f}", 100 * value) for value in (found.first, found.second)]
        clean = Cell(f"{100 * found.low:.2f} to {100 * found.high:.2f}")
        return [Cell(column.name), clean, *means, *paired_t_cells(found.mean), *paired_t_cells(found.middle)[1:]]
    accuracies = [[clean.mean for _, clean, _ in each.measured(column)] for each in (first, second)]
    if min(map(len, accuracies)) < 2:
        return None
    ends = [f"{100 * min(each):.2f} to {100 * max(each):.2f}" for each in accuracies]
    return [Cell(column.name), Cell(f"none in common: {ends[0]} and {ends[1]}"), *[Cell()] * 7]
