"""Which images a recipe helps: accuracy on the hardest tenth of the test images, the next tenth, and so on.

How hard an image is says a census of networks that are compared with none of the runs (``easybn census --split test``):
groups made of the runs' own verdicts would show a difference where there is none, as the images that one network
happens to get wrong are those on which another is better.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..evaluation.verdicts import points_digest
from ..json_files import Row
from ..runs.evaluate import drawn_points
from ..stats import paired_difference_interval, paired_t
from .aggregate import RecipeRuns, Setting, point_verdicts
from .frontier import robust_columns
from .rows import CLEAN, Column, RunRows
from .table import Cell, Table, TableRow

GROUPS = 10


@dataclass(frozen=True, eq=False)
class Deciles:
    """How hard the test images of a data set are.

    Args:
        data: its name.
        of: (n,) int, the group of each image: 0 for the hardest tenth, 9 for the easiest.
        source: whose judgement it is, in words.
    """

    data: str
    of: NDArray[np.int64]
    source: str

    @classmethod
    def of_row(cls, row: Row) -> "Deciles":
        """Of a row of deciles.jsonl; ValueError if it is damaged."""
        digits = np.frombuffer(row["deciles"].encode(), np.uint8).astype(np.int64) - ord("0")
        if len(digits) != row["n"]:
            raise ValueError(f"deciles.jsonl is damaged: {len(digits)} digits for {row['n']} images")
        many, epochs = len(row["seeds"]), row["epoch"]
        source = (
            f"{many} trainings of {row['model']} ({str(row['recipe']).rpartition('.')[2]}), after "
            f"{epochs} epoch{'s' * (epochs > 1)}"
        )
        return cls(row["data"], digits, source)


def latest(rows: Sequence[Row], data: str) -> Deciles | None:
    """The last census of the test images of a data set, if there is one."""
    found = [row for row in rows if row["data"] == data]
    return Deciles.of_row(found[-1]) if found else None


class Change(NamedTuple):
    """What a recipe changes on one group of images.

    Args:
        group: 0 for the hardest tenth.
        n: images of the group that were measured.
        base: accuracy of the other recipe, in [0, 1], the mean over the seeds that both have.
        difference: of this recipe's accuracy to it, the mean over seeds.
        low, high: its 95% interval: paired over seeds; of a single seed over images (Tango, 1998).
        seeds: how many.
    """

    group: int
    n: int
    base: float
    difference: float
    low: float
    high: float
    seeds: int


def changes(recipe: RecipeRuns, base: RecipeRuns, column: Column, deciles: Deciles) -> list[Change]:
    """``recipe`` compared with ``base`` on each group; empty if no seed of both has verdicts on the same images."""
    pairs = []
    for seed in recipe.runs.keys() & base.runs.keys():
        ours, theirs = (_verdicts(each.runs[seed], column, deciles) for each in (recipe, base))
        if ours is not None and theirs is not None and np.array_equal(ours[0], theirs[0]):
            pairs.append((ours[0], ours[1], theirs[1]))
    if not pairs or any(not np.array_equal(points, pairs[0][0]) for points, _, _ in pairs):
        return []
    groups = deciles.of[pairs[0][0]]
    return [_change(group, [(a[groups == group], b[groups == group]) for _, a, b in pairs])
            for group in range(GROUPS) if (groups == group).any()]  # fmt: skip


def _change(group: int, pairs: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> Change:
    n = len(pairs[0][0])
    test = paired_t([float(a.mean() - b.mean()) for a, b in pairs], 1 / n)
    base = float(np.mean([b.mean() for _, b in pairs]))
    if test.half_width is not None:
        low, high = test.mean - test.half_width, test.mean + test.half_width
    else:
        a, b = pairs[0]
        low, high = paired_difference_interval(int((a & ~b).sum()), int((b & ~a).sum()), n)
    return Change(group, n, base, test.mean, low, high, len(pairs))


def _verdicts(run: RunRows, column: Column, deciles: Deciles) -> tuple[NDArray[np.int64], NDArray[np.bool_]] | None:
    """(numbers of the test images, whether each is right); None if it is not known which they are."""
    found = point_verdicts(run, column)
    if found is None:
        return None
    seeds = {0, *(int(row["points_seed"]) for row in run.scores if isinstance(row.get("points_seed"), int))}
    for seed in sorted(seeds):
        points = drawn_points(len(deciles.of), len(found.right), seed).numpy()
        if points_digest(points.tolist()) == found.points:
            return points, found.right
    return None


@dataclass(frozen=True, eq=False)
class ChangesOf:
    """What each recipe changes in one column.

    Args:
        column: what was measured.
        base: label of the recipe that the others are compared with.
        by_recipe: by label, every recipe that can be compared.
    """

    column: Column
    base: str
    by_recipe: dict[str, list[Change]]

    def sentence(self) -> str:
        """The recipe that changes most on the hardest tenth, and what it changes on the easiest."""
        label, found = max(self.by_recipe.items(), key=lambda item: abs(item[1][0].difference))
        hardest, easiest = (
            f"{100 * each.difference:+.1f} points ({100 * each.low:+.1f} to {100 * each.high:+.1f})"
            for each in (found[0], found[-1])
        )
        return (
            f"Beside {self.base}, {label} changes most on the hardest tenth: {hardest}; on the easiest tenth {easiest}."
        )


def all_changes(setting: Setting, deciles: Deciles | None) -> Iterator[ChangesOf]:
    """Of clean accuracy, and of each attack, what recipes change beside Vanilla (or the first recipe).

    Of several Vanillas the one counts whose learning rate most recipes have.
    """
    if deciles is None or len(setting.recipes) < 2:
        return
    rates = [each.lr for each in setting.recipes]
    vanillas = [each for each in setting.recipes if each.method == "Vanilla"]
    base = max(vanillas or setting.recipes[:1], key=lambda each: rates.count(each.lr))
    for column in (CLEAN, *robust_columns(setting)):
        by_recipe = {each.label: changes(each, base, column, deciles) for each in setting.recipes if each is not base}
        if by_recipe := {label: found for label, found in by_recipe.items() if found}:
            yield ChangesOf(column, base.label, by_recipe)


def decile_tables(setting: Setting, deciles: Deciles | None) -> list[Table]:
    """A table of clean accuracy and of each attack: a row for each tenth, a column for each recipe."""
    return [_table(setting, deciles, each) for each in all_changes(setting, deciles) if deciles is not None]


def _table(setting: Setting, deciles: Deciles, found: ChangesOf) -> Table:
    first = next(iter(found.by_recipe.values()))
    rows = []
    for change in first:
        cells = [Cell(f"{100 * change.base:.1f}", 100 * change.base, n=change.n)]
        for others in found.by_recipe.values():
            cells.append(next((_cell(each) for each in others if each.group == change.group), Cell()))
        name = {0: "1 (hardest)", GROUPS - 1: f"{GROUPS} (easiest)"}.get(change.group, str(change.group + 1))
        rows.append(TableRow(name, cells))
    many = sorted({each.seeds for others in found.by_recipe.values() for each in others})
    how = f"paired over {many[-1]} seeds" if many[-1] > 1 else "of one seed, over its images (Tango, 1998)"
    sizes = sorted({each.n for each in first})
    images = " to ".join(f"{n:,}" for n in dict.fromkeys((sizes[0], sizes[-1])))
    caption = (
        f"Accuracy of {found.base} in %, and by how many points the others differ, with the 95% interval {how}; "
        f"{images} images in each tenth. The tenths are by {deciles.source}, none of them compared here."
    )
    title = (
        f"{setting.title}: {'clean accuracy' if found.column == CLEAN else found.column.name}, by tenths of the images"
    )
    return Table(title, "Tenth", [found.base, *found.by_recipe], rows, caption, notes=[found.sentence()])


def _cell(change: Change) -> Cell:
    value, low, high = 100 * change.difference, 100 * change.low, 100 * change.high
    half = (high - low) / 2
    return Cell(f"{value:+.1f} ±{half:.1f}", value, low, high, change.seeds, change.n)
