"""Paired tests: recipes over seeds and over the points on which their models differ, and two stored evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

from ..json_files import Row
from ..perturb.eps import format_eps
from ..stats import PairedT, mcnemar, paired_t
from .aggregate import RecipeRuns, Setting, point_verdicts
from .rows import Column
from .table import Cell, Table, TableRow


class McNemar(NamedTuple):
    """Points that only the first model gets right, points that only the second does, and the exact two-sided p.

    Pooled over ``seeds`` pairs of models on the same images: it is about these models, not about other seeds.
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
        saturated: both are at 0% at every seed, or both at 100%, so that no difference could show.
    """

    first: str
    second: str
    column: Column
    seed_test: PairedT | None
    point_test: McNemar | None
    saturated: bool = False


def compare(first: RecipeRuns, second: RecipeRuns, column: Column) -> Comparison:
    """Compare the seeds that both recipes have, measured on the same number of points."""
    ours, theirs = first.scores(column), second.scores(column)
    seeds = [seed for seed in ours if seed in theirs and ours[seed]["n"] == theirs[seed]["n"]]
    accuracies = [tuple(scores[seed]["correct"] / scores[seed]["n"] for scores in (ours, theirs)) for seed in seeds]
    return Comparison(
        first.label,
        second.label,
        column,
        paired_t([a - b for a, b in accuracies], 1 / ours[seeds[0]]["n"]) if seeds else None,
        _point_test(first, second, column, seeds),
        bool(seeds) and any(all(pair == (end, end) for pair in accuracies) for end in (0.0, 1.0)),
    )


def pairs(setting: Setting) -> list[tuple[RecipeRuns, RecipeRuns]]:
    """The recipes to compare: as in the paper, EBN with AdvProp at the same radius and rate, and all with Vanilla.

    Also a cheaper form of a recipe with the recipe: FastEBN with EBN. All of these on the same images; a recipe trained
    without some images is compared with itself on all of them, and without others.
    """
    with_advprop = [
        (ebn, advprop)
        for ebn in setting.recipes
        for advprop in setting.recipes
        if (ebn.method, advprop.method) == ("EBN", "AdvProp") and _alike(ebn, advprop)
    ]
    with_slow = [
        (fast, slow)
        for fast in setting.recipes
        for slow in setting.recipes
        if fast.method == f"Fast{slow.method}" and _alike(fast, slow)
    ]
    with_vanilla = [
        (recipe, vanilla)
        for vanilla in setting.recipes
        for recipe in setting.recipes
        if vanilla.method == "Vanilla" != recipe.method and recipe.left_out == vanilla.left_out
    ]
    with_more_images = [
        (part, other)
        for part, other in permutations(setting.recipes, 2)
        if part.left_out and (part.method, part.radii, part.lr) == (other.method, other.radii, other.lr)
        and (not other.left_out or part.label < other.label)
    ]  # fmt: skip
    return with_advprop + with_slow + with_vanilla + with_more_images


def _alike(first: RecipeRuns, second: RecipeRuns) -> bool:
    """Whether they differ only in the method."""
    return (first.radii, first.lr, first.left_out) == (second.radii, second.lr, second.left_out)


def _point_test(first: RecipeRuns, second: RecipeRuns, column: Column, seeds: Sequence[int]) -> McNemar | None:
    first_only = second_only = models = 0
    for seed in seeds:
        ours = point_verdicts(first.runs[seed], column)
        theirs = point_verdicts(second.runs[seed], column) if ours else None
        if ours is None or theirs is None or ours.points != theirs.points or len(ours.right) != len(theirs.right):
            continue
        first_only += int((ours.right & ~theirs.right).sum())
        second_only += int((theirs.right & ~ours.right).sum())
        models += 1
    return McNemar(first_only, second_only, mcnemar(first_only, second_only), models) if models else None


# As a table.


def differences_table(setting: Setting, columns: Sequence[Column]) -> Table:
    """The paired differences of :func:`pairs` in each of ``columns``, over seeds and over points."""
    rows = []
    for first, second in pairs(setting):
        for column in columns:
            comparison = compare(first, second, column)
            if comparison.seed_test is not None:
                label = f"{comparison.first} \N{MINUS SIGN} {comparison.second}"
                cells = [Cell(column.name), *paired_t_cells(comparison.seed_test), *_point_cells(comparison.point_test)]
                rows.append(TableRow(label, cells, recipe=comparison.first))
    caption = (
        "Differences of accuracy in points of a percent, paired by seed, with the 95% interval of their mean and the p "
        "of the paired t test; nothing where there is one seed. Points: how many only the one and only the other model "
        "gets right, over all seeds, and the p of McNemar's exact test: it is about these models, not about other "
        "seeds."
    )
    headings = ["column", "seeds", "difference", "p (t)", "only first", "only second", "p (McNemar)"]
    title = f"{setting.title}: paired tests"
    return Table(title, "First \N{MINUS SIGN} second", headings, rows, caption, numeric=[False, *[True] * 6])


def paired_t_cells(test: PairedT, scale: float = 100, digits: int = 2) -> list[Cell]:
    """Seeds, difference and p of a paired t test, the difference by default in points of a percent."""
    return [Cell(str(test.seeds), test.seeds), difference_cell(test, scale, digits), Cell(p_text(test.p), test.p)]


def difference_cell(test: PairedT, scale: float = 100, digits: int = 2) -> Cell:
    """``-0.31 ±0.22``"""
    mean = scale * test.mean
    if test.half_width is None:
        return Cell(signed(mean, digits), mean, seeds=test.seeds)
    half = scale * test.half_width
    return Cell(f"{signed(mean, digits)} ±{half:.{digits}f}", mean, mean - half, mean + half, test.seeds)


def _point_cells(test: McNemar | None) -> list[Cell]:
    if test is None:
        return [Cell(), Cell(), Cell()]
    counts = [Cell(f"{count:,}", count) for count in (test.first_only, test.second_only)]
    return [*counts, Cell(p_text(test.p), test.p)]


# Two evaluations of the same points: the rows of comparison.json, see easybn.runs.compare.

LETTERS = ("A", "B")


def paired_lines(row: Row) -> list[str]:
    """Each radius in one line: both accuracies, their difference with its interval, p, and who withstands what."""
    return [_paired_line(pair, row["norm"]) for pair in row["pairs"] if pair["eps"]]


def _paired_line(pair: Row, norm: str) -> str:
    a, b = (100 * (pair["both"] + pair[which]) / pair["n"] for which in ("only_first", "only_second"))
    low, high = (signed(100 * pair[end], 1) for end in ("low", "high"))
    return (
        f"at {norm} {format_eps(pair['eps'], norm)}: A {a:.1f}%, B {b:.1f}%, difference "
        f"{signed(100 * pair['difference'], 1)} (95%: {low} to {high}), McNemar's exact p {p_text(pair['p'])}; of "
        f"{pair['n']:,} points {pair['only_first']:,} only A withstands, {pair['only_second']:,} only B"
    )


def paired_table(row: Row) -> Table:
    """Clean accuracy and each radius: the four counts, the difference with its interval, and p."""
    rows = []
    for pair in row["pairs"]:
        label = format_eps(pair["eps"], row["norm"]) if pair["eps"] else "clean"
        counts = [Cell(f"{pair[name]:,}", pair[name]) for name in ("both", "only_first", "only_second", "neither")]
        difference, low, high = (100 * pair[name] for name in ("difference", "low", "high"))
        interval = Cell(f"{signed(low, 1)} .. {signed(high, 1)}")
        cells = [*counts, Cell(signed(difference, 1), difference, low, high, n=pair["n"]), interval]
        rows.append(TableRow(label, [*cells, Cell(p_text(pair["p"]), pair["p"])]))
    n = row["pairs"][0]["n"]
    headings = ["both", "only A", "only B", "neither", "A \N{MINUS SIGN} B", "95% interval", "p"]
    caption = (
        f"Numbers of {n:,} points that both, one or neither get right; accuracy of A minus that of B in points of a "
        "percent, with Tango's interval; p of McNemar's exact test. It is about these two models on such points."
    )
    return Table(f"A and B on the same {n:,} points, {row['norm']}", "eps", headings, rows, caption)


def signed(value: float, digits: int = 2) -> str:
    """With + or a minus sign; zero without."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "\N{MINUS SIGN}") + text


def p_text(p: float | None) -> str:
    """Three digits, or ``<0.001``; empty where unknown."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
