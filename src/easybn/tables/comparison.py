"""The paired tests between recipes as a table: over seeds and over points, in every column."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

from ..stats import PairedT, mcnemar, paired_t
from .aggregate import RecipeRuns, Setting, point_verdicts
from .rows import Column
from .table import Cell, Table, TableRow

# Two recipes in one column: the paired difference over seeds, and the points on which their models differ.


class McNemar(NamedTuple):
    """Points that only the first model gets right, that only the second does, and the exact two-sided p.

    Pooled over ``seeds`` pairs of models on the same images: it speaks of these models, not of other seeds.
    """

    first_only: int
    second_only: int
    p: float
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second`` in a column.

    Args:
        first, second: labels.
        column: what was measured.
        seed_test: of the paired differences of accuracy, in [-1, 1]; None if no seed has both on as many points.
        point_test: None unless both runs of a seed keep verdicts of the same points.
        nothing_left: no point is left in either, at any seed (or all are, in both).
    """

    first: str
    second: str
    column: Column
    seed_test: PairedT | None
    point_test: McNemar | None
    nothing_left: bool = False


def compare(first: RecipeRuns, second: RecipeRuns, column: Column) -> Comparison:
    """Pair the seeds that both have, measured on the same number of points."""
    ours, theirs = first.scores(column), second.scores(column)
    seeds = [seed for seed in ours if seed in theirs and ours[seed]["n"] == theirs[seed]["n"]]
    pairs = [(ours[seed]["correct"] / ours[seed]["n"], theirs[seed]["correct"] / theirs[seed]["n"]) for seed in seeds]
    return Comparison(
        first.label,
        second.label,
        column,
        paired_t([a - b for a, b in pairs], 1 / ours[seeds[0]]["n"]) if pairs else None,
        _over_points(first, second, column, seeds),
        bool(pairs) and (all(a == b == 0 for a, b in pairs) or all(a == b == 1 for a, b in pairs)),
    )


def pairs(setting: Setting) -> list[tuple[RecipeRuns, RecipeRuns]]:
    """Those that the paper compares: EBN with AdvProp at the same radius and rate, and every recipe with Vanilla.

    And a recipe made cheaper with the one it is made of: FastEBN with EBN. All of these on the same images; a recipe
    trained without some images is compared with itself on all of them, and without others.
    """
    of = {method: [each for each in setting.recipes if each.method == method] for method in ("Vanilla", "AdvProp")}
    with_advprop = [
        (ebn, advprop)
        for ebn in setting.recipes
        for advprop in of["AdvProp"]
        if ebn.method == "EBN" and _alike(ebn, advprop)
    ]
    with_slow = [
        (fast, slow)
        for fast in setting.recipes
        for slow in setting.recipes
        if fast.method == f"Fast{slow.method}" and _alike(fast, slow)
    ]
    with_vanilla = [
        (each, vanilla)
        for vanilla in of["Vanilla"]
        for each in setting.recipes
        if each.method != "Vanilla" and each.left_out == vanilla.left_out
    ]
    with_more_images = [
        (part, other)
        for part, other in permutations(setting.recipes, 2)
        if part.left_out and (part.method, part.radii, part.lr) == (other.method, other.radii, other.lr)
        and (not other.left_out or part.label < other.label)
    ]  # fmt: skip
    return with_advprop + with_slow + with_vanilla + with_more_images


def _alike(first: RecipeRuns, second: RecipeRuns) -> bool:
    """Whether only the method tells them apart."""
    return (first.radii, first.lr, first.left_out) == (second.radii, second.lr, second.left_out)


def _over_points(first: RecipeRuns, second: RecipeRuns, column: Column, seeds: Sequence[int]) -> McNemar | None:
    only = [0, 0]
    paired = 0
    for seed in seeds:
        ours = point_verdicts(first.runs[seed], column)
        theirs = point_verdicts(second.runs[seed], column) if ours else None
        if ours is None or theirs is None or ours.points != theirs.points or len(ours.right) != len(theirs.right):
            continue
        only[0] += int((ours.right & ~theirs.right).sum())
        only[1] += int((theirs.right & ~ours.right).sum())
        paired += 1
    return McNemar(only[0], only[1], mcnemar(only[0], only[1]), paired) if paired else None


def differences_table(setting: Setting, columns: Sequence[Column]) -> Table:
    """The paired differences of :func:`pairs` in each of ``columns``, over seeds and over points."""
    lines = []
    for first, second in pairs(setting):
        for column in columns:
            found = compare(first, second, column)
            if found.seed_test is not None:
                lines.append(
                    TableRow(f"{found.first} \N{MINUS SIGN} {found.second}", _tested(found), recipe=found.first)
                )
    caption = (
        "Differences of accuracy in points of a percent, paired by seed, with the 95% interval of their mean and the p "
        "of the paired t test; nothing where there is one seed. Points: how many only the one and only the other model "
        "gets right, over all seeds, and the p of McNemar's exact test: it speaks of these models, not of other seeds."
    )
    headings = ["column", "seeds", "difference", "p (t)", "only first", "only second", "p (McNemar)"]
    title = f"{setting.title}: paired tests"
    return Table(title, "First \N{MINUS SIGN} second", headings, lines, caption, numeric=[False, *[True] * 6])


def difference_text(found: Comparison) -> str:
    """``-0.31 ±0.22``, in points of a percent."""
    test = found.seed_test
    if test is None:
        return ""
    half = "" if test.half_width is None else f" ±{100 * test.half_width:.2f}"
    return f"{signed(100 * test.mean)}{half}"


def signed(value: float, digits: int = 2) -> str:
    """With + or a minus sign; zero without."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "\N{MINUS SIGN}") + text


def p_text(p: float | None) -> str:
    """Three digits, or that it is smaller; empty where unknown."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _tested(found: Comparison) -> list[Cell]:
    test, points = found.seed_test, found.point_test
    assert test is not None
    mean = 100 * test.mean
    half = None if test.half_width is None else 100 * test.half_width
    low, high = (None, None) if half is None else (mean - half, mean + half)
    counts = [Cell(), Cell(), Cell()]
    if points is not None:
        counts = [
            Cell(f"{points.first_only:,}", points.first_only),
            Cell(f"{points.second_only:,}", points.second_only),
        ]
        counts.append(Cell(p_text(points.p), points.p))
    return [
        Cell(found.column.name),
        Cell(str(test.seeds), test.seeds),
        Cell(difference_text(found), mean, low, high, test.seeds),
        Cell(p_text(test.p), test.p),
        *counts,
    ]
