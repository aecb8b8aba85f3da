"""Rows of runs, put together over seeds: which runs are one recipe, how it is called, and its accuracies."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ..json_files import Row
from ..perturb.eps import format_eps
from ..runs.verdicts import PointVerdicts, verdict_rows
from ..stats import Aggregate, aggregate
from .rows import Column, RunRows

# Short names for recipes: the class, the radius of its perturbations, and what tells it from its neighbours.

NOT_TOLD = ("data", "data_folder", "leave_out", "training.seed")  # nor where the numbers of images left out lie


def labels(runs: Sequence[RunRows], always: Sequence[str] = ()) -> list[str]:
    """``EBN 8/255``, and ``Vanilla, lr 0.05`` where there is another Vanilla; each label once.

    Args:
        runs: of one setting, one for each recipe.
        always: last parts of fields that are named wherever any two of the runs differ in them.
    """
    fields = [flat(run.experiment) for run in runs]
    keys = [key for key in dict.fromkeys(key for each in fields for key in each) if key.rpartition(".")[2] in always]
    named = [key for key in keys if any(each.get(key) != fields[0].get(key) for each in fields)]
    plain = [
        ", ".join([plain_label(run), *(f"{key.rpartition('.')[2]} {_spoken(mine.get(key))}" for key in named)])
        for run, mine in zip(runs, fields, strict=True)
    ]
    out = []
    for label, run in zip(plain, runs, strict=True):
        alike = [flat(other.experiment) for name, other in zip(plain, runs, strict=True) if name == label]
        mine = flat(run.experiment)
        keys = [key for key in mine if key not in NOT_TOLD and any(other.get(key) != mine[key] for other in alike)]
        out.append(", ".join([label, *(f"{key.rpartition('.')[2]} {_spoken(mine[key])}" for key in keys[:3])]))
    return [label if out.count(label) == 1 else f"{label} ({run.name})" for label, run in zip(out, runs, strict=True)]


def plain_label(run: RunRows) -> str:
    """The class, the radii of its perturbations where it has any, and the file of images it was trained without."""
    found = "+".join(_radii(run.experiment["recipe"]))
    without = run.experiment.get("leave_out")
    return f"{run.appearance['label']} {found}".strip() + (
        f", without {PurePath(str(without)).stem}" if without else ""
    )


def radii(recipe: Mapping[str, Any]) -> tuple[float, ...]:
    """The different radii of the balls in a recipe's fields, ascending, in [0, 1] pixel units."""
    fields = [value for key, value in flat(recipe).items() if key.rpartition(".")[2] == "eps"]
    return tuple(sorted({round(float(value), 9) for value in fields if isinstance(value, int | float)}))


def _radii(recipe: Mapping[str, Any]) -> list[str]:
    """The same as they are read, each in the norm of its ball."""
    fields = flat(recipe)
    shown: dict[str, None] = {}
    for eps in radii(recipe):
        balls = [key.rpartition(".")[0] for key, value in fields.items() if key.endswith("eps") and _is(value, eps)]
        kinds = {str(fields.get(f"{ball}.class")).rpartition(".")[2] for ball in balls}
        shown |= {format_eps(eps, {"Linf": "linf", "L2": "l2"}.get(kind)): None for kind in sorted(kinds)}
    return list(shown)


def _is(value: Any, eps: float) -> bool:
    return isinstance(value, int | float) and round(float(value), 9) == eps


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested fields by their path: ``{"training.seed": 0, ...}``."""
    return dict(_leaves(value, before))


def _leaves(value: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{before}{key}.")
        else:
            yield f"{before}{key}", item


def _spoken(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# Which runs are the same recipe at several seeds, and which recipes may be compared.

_OF_SETTING = ("model", "model_options", "validation", "train_images", "training.epochs", "training.batch_size")
ACROSS = {name.rpartition(".")[2]: name for name in _OF_SETTING[2:]}
"""What may differ between recipes that are compared, if it is asked for: at equal cost, say, the epochs do."""


@dataclass(frozen=True, eq=False)
class RecipeRuns:
    """A row of a table: one recipe with its fields, at one or several seeds.

    Args:
        label: see :func:`labels`.
        method: the class alone.
        radii: of its perturbations, in [0, 1] pixel units.
        lr: the learning rate it was trained with.
        left_out: the digest of the training images it was trained without, if any.
        runs: by seed, ascending.
        order: its place in tables, smaller first.
        colour: of it on light and on dark pages, if it has one.
    """

    label: str
    method: str
    radii: tuple[float, ...]
    lr: float | None
    left_out: str | None
    runs: Mapping[int, RunRows]
    order: int = 100
    colour: tuple[str, str] | None = None

    def scores(self, column: Column) -> dict[int, Row]:
        """The latest score of each seed that has one."""
        of = {seed: [row for row in run.scores if column.shows(row)] for seed, run in self.runs.items()}
        return {seed: rows[-1] for seed, rows in of.items() if rows}

    def accuracy(self, column: Column) -> Aggregate | None:
        """In [0, 1]; None if nothing was measured."""
        rows = list(self.scores(column).values())
        if not rows:
            return None
        return aggregate([row["correct"] / row["n"] for row in rows], resolution=1 / max(row["n"] for row in rows))


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
            run.appearance["order"],
            run.appearance["colour"],
        )
        for label, run, seeds in zip(labels(firsts, across), firsts, by_recipe.values(), strict=True)
    ]
    return Setting(runs[0].data, str(runs[0].experiment["model"]), title, sorted(recipes, key=_place), repeated)


def _place(recipe: RecipeRuns) -> tuple[int, str, tuple[float, ...], str]:
    return recipe.order, recipe.method, recipe.radii, recipe.label


def _lr(run: RunRows) -> float | None:
    value = run.experiment.get("training", {}).get("lr")
    return float(value) if isinstance(value, int | float) else None


def point_verdicts(run: RunRows, column: Column) -> PointVerdicts | None:
    """The latest known verdicts of a column; None if the run keeps none.

    Raises:
        ValueError: a row whose verdicts are damaged.
    """
    rows = [row for row in verdict_rows(run.folder, run.scores, run.verdicts) if column.shows(row)]
    try:
        return PointVerdicts.of(rows[-1]) if rows else None
    except ValueError as error:
        raise ValueError(f"{run.folder}: verdicts of {column.name}: {error}") from error
