"""Which runs are the same recipe at several seeds, and which recipes may be compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...evaluation.over_seeds import OverSeeds, over_seeds
from ...evaluation.paper_numbers import Column
from ...rows import Row
from .columns import is_of
from .labels import NOT_TOLD, flat, labels, radii
from .rows import RunRows

ORDER = ("Vanilla", "AdvProp", "EBN", "EBNShared", "AdvPropEBN", "FastAdvProp", "FastEBN", "AdversarialTraining")
_OF_SETTING = ("model", "model_options", "validation", "train_images", "training.epochs", "training.batch_size")
ACROSS = {name.rpartition(".")[2]: name for name in _OF_SETTING[2:]}
"""What may differ between recipes that are compared, if it is asked for: at equal cost, say, the epochs do."""


@dataclass(frozen=True, eq=False)
class RecipeRuns:
    """A row of a table: one recipe with its fields, at one or several seeds.

    Args:
        label: see :func:`.labels.labels`.
        method: the class alone.
        radii: of its perturbations, in [0, 1] pixel units.
        lr: the learning rate it was trained with.
        left_out: the digest of the training images it was trained without, if any.
        runs: by seed, ascending.
    """

    label: str
    method: str
    radii: tuple[float, ...]
    lr: float | None
    left_out: str | None
    runs: Mapping[int, RunRows]

    def scores(self, column: Column) -> dict[int, Row]:
        """The latest score of each seed that has one."""
        of = {seed: [row for row in run.scores if is_of(row, column)] for seed, run in self.runs.items()}
        return {seed: rows[-1] for seed, rows in of.items() if rows}

    def accuracy(self, column: Column) -> OverSeeds | None:
        """In [0, 1]; None if nothing was measured."""
        rows = list(self.scores(column).values())
        if not rows:
            return None
        return over_seeds([row["correct"] / row["n"] for row in rows], resolution=1 / max(row["n"] for row in rows))


@dataclass(frozen=True, eq=False)
class Setting:
    """Recipes that were trained on the same images with the same network, epochs and batches.

    Args:
        data, model: their names.
        title: both, and what else tells the setting from others.
        recipes: in the order of the paper, then ours.
        repeated: a sentence for each run that repeats another's seed, and is not counted.
    """

    data: str
    model: str
    title: str
    recipes: Sequence[RecipeRuns]
    repeated: Sequence[str] = ()


def settings(runs: Sequence[RunRows], across: Sequence[str] = ()) -> list[Setting]:
    """The runs by setting, recipe and seed.

    Args:
        runs: in any order.
        across: keys of :data:`ACROSS` that do not tell settings apart, but stand in the recipes' labels.
    """
    apart = [name for name in _OF_SETTING if name not in map(ACROSS.__getitem__, across)]
    by_setting: dict[str, list[RunRows]] = {}
    for run in runs:
        fields = flat(run.experiment)
        key = json.dumps([run.data, *(fields.get(name) for name in apart)], default=str)
        by_setting.setdefault(key, []).append(run)
    titles = [_title(of) for of in by_setting.values()]
    longer = [title if titles.count(title) == 1 else f"{title}, {_more(of)}"
              for title, of in zip(titles, by_setting.values(), strict=True)]  # fmt: skip
    return [_setting(title, of, across) for title, of in zip(longer, by_setting.values(), strict=True)]


def _title(runs: Sequence[RunRows]) -> str:
    parts = {run.experiment.get("train_images") for run in runs}
    part = parts.pop() if len(parts) == 1 else None
    return f"{runs[0].data}, {runs[0].experiment['model']}" + (f", {part:,} training images" if part else "")


def _more(runs: Sequence[RunRows]) -> str:
    found = ({run.experiment.get("training", {}).get(name) for run in runs} for name in ("epochs", "batch_size"))
    of = [
        (name, values.pop()) for name, values in zip(("{} epochs", "batch {}"), found, strict=True) if len(values) == 1
    ]
    return ", ".join(name.format(value) for name, value in of)


def _setting(title: str, runs: Sequence[RunRows], across: Sequence[str]) -> Setting:
    by_recipe: dict[str, dict[int, RunRows]] = {}
    repeated = []
    for run in runs:
        told = {name: value for name, value in flat(run.experiment).items() if name not in NOT_TOLD}
        seeds = by_recipe.setdefault(json.dumps(told, sort_keys=True, default=str), {})
        if run.seed in seeds:
            repeated.append(f"{run.name} repeats {seeds[run.seed].name} and is left out.")
        seeds.setdefault(run.seed, run)
    firsts = [next(iter(seeds.values())) for seeds in by_recipe.values()]
    recipes = [
        RecipeRuns(
            label,
            run.method,
            radii(run.experiment["recipe"]),
            _lr(run),
            run.experiment.get("left_out"),
            dict(sorted(seeds.items())),
        )
        for label, run, seeds in zip(labels(firsts, across), firsts, by_recipe.values(), strict=True)
    ]
    return Setting(runs[0].data, str(runs[0].experiment["model"]), title, sorted(recipes, key=_place), repeated)


def _place(recipe: RecipeRuns) -> tuple[int, str, tuple[float, ...], str]:
    known = ORDER.index(recipe.method) if recipe.method in ORDER else len(ORDER)
    return known, recipe.method, recipe.radii, recipe.label


def _lr(run: RunRows) -> float | None:
    value = run.experiment.get("training", {}).get("lr")
    return float(value) if isinstance(value, int | float) else None
