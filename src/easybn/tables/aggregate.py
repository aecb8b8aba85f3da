"""Runs grouped for tables over seeds: which runs are one recipe, which recipes are compared, and their accuracies."""

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

# Recipes at several seeds, in settings in which they may be compared.

_SAME_IN_SETTING = ("model", "model_options", "validation", "train_images", "training.epochs", "training.batch_size")
ACROSS = {name.rpartition(".")[2]: name for name in _SAME_IN_SETTING[2:]}
"""What may differ between recipes that are compared, if it is asked for: at equal cost, say, the epochs do."""
_SAME_RECIPE = ("data", "data_folder", "leave_out", "training.seed")
"""Fields in which runs of one recipe may differ; images left out are compared by their digest, not by their path."""


@dataclass(frozen=True, eq=False)
class RecipeRuns:
    """The runs of one recipe, with the same fields, at one or several seeds: a row of a table.

    Args:
        label: a short name, see :func:`labels`.
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
        by_seed = {seed: [row for row in run.scores if column.shows(row)] for seed, run in self.runs.items()}
        return {seed: rows[-1] for seed, rows in by_seed.items() if rows}

    def accuracy(self, column: Column) -> Aggregate | None:
        """The mean over seeds, in [0, 1]; None if nothing was measured."""
        rows = list(self.scores(column).values())
        if not rows:
            return None
        return aggregate([row["correct"] / row["n"] for row in rows], resolution=1 / max(row["n"] for row in rows))


@dataclass(frozen=True, eq=False)
class Setting:
    """Recipes that were trained on the same images with the same network, epochs and batches.

    Args:
        data, model: their names.
        title: both, and what else distinguishes the setting from others.
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
        across: keys of :data:`ACROSS` that do not separate settings, and appear in the recipes' labels instead.
    """
    separating = [name for name in _SAME_IN_SETTING if name not in map(ACROSS.__getitem__, across)]
    by_setting: dict[str, list[RunRows]] = {}
    for run in runs:
        fields = flat(run.experiment)
        key = json.dumps([run.data, *(fields.get(name) for name in separating)], default=str)
        by_setting.setdefault(key, []).append(run)
    titles = [_title(group) for group in by_setting.values()]
    longer = [title if titles.count(title) == 1 else f"{title}, {_epochs_and_batch(group)}"
              for title, group in zip(titles, by_setting.values(), strict=True)]  # fmt: skip
    return [_setting(title, group, across) for title, group in zip(longer, by_setting.values(), strict=True)]


def _title(runs: Sequence[RunRows]) -> str:
    numbers = {run.experiment.get("train_images") for run in runs}
    images = numbers.pop() if len(numbers) == 1 else None
    return f"{runs[0].data}, {runs[0].experiment['model']}" + (f", {images:,} training images" if images else "")


def _epochs_and_batch(runs: Sequence[RunRows]) -> str:
    words = []
    for name, template in (("epochs", "{} epochs"), ("batch_size", "batch {}")):
        values = {run.experiment.get("training", {}).get(name) for run in runs}
        if len(values) == 1:
            value = values.pop()
            words.append(template.format(value).removesuffix("s" if value == 1 else ""))
    return ", ".join(words)


def _setting(title: str, runs: Sequence[RunRows], across: Sequence[str]) -> Setting:
    by_recipe: dict[str, dict[int, RunRows]] = {}
    repeated = []
    for run in runs:
        # None is how runs trained before there was the field behave
        fields = {k: v for k, v in flat(run.experiment).items() if k not in _SAME_RECIPE and v is not None}
        by_seed = by_recipe.setdefault(json.dumps(fields, sort_keys=True, default=str), {})
        if run.seed in by_seed:
            repeated.append(f"{run.name} repeats {by_seed[run.seed].name} and is left out.")
        by_seed.setdefault(run.seed, run)
    firsts = [next(iter(by_seed.values())) for by_seed in by_recipe.values()]
    recipes = [
        RecipeRuns(
            label,
            run.method,
            radii(run.experiment["recipe"]),
            _lr(run),
            run.experiment.get("left_out"),
            dict(sorted(by_seed.items())),
            run.appearance["order"],
            run.appearance["colour"],
        )
        for label, run, by_seed in zip(labels(firsts, across), firsts, by_recipe.values(), strict=True)
    ]
    recipes.sort(key=lambda recipe: (recipe.order, recipe.method, recipe.radii, recipe.label))
    return Setting(runs[0].data, str(runs[0].experiment["model"]), title, recipes, repeated)


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


# Short names for recipes: the class, the radius of its perturbations, and what distinguishes it from the others.

MOST_FIELDS = 3  # that a label names


def labels(runs: Sequence[RunRows], always: Sequence[str] = ()) -> list[str]:
    """``EBN 8/255``, and ``Vanilla, lr 0.05`` where there is another Vanilla; no label twice.

    Args:
        runs: of one setting, one for each recipe.
        always: last parts of fields that are named wherever any two of the runs differ in them.
    """
    all_fields = [flat(run.experiment) for run in runs]
    keys = dict.fromkeys(key for fields in all_fields for key in fields if key.rpartition(".")[2] in always)
    named = [key for key in keys if any(fields.get(key) != all_fields[0].get(key) for fields in all_fields)]
    plain = [
        ", ".join([plain_label(run), *(field_text(key, fields.get(key)) for key in named)])
        for run, fields in zip(runs, all_fields, strict=True)
    ]
    distinct = []
    for label, fields in zip(plain, all_fields, strict=True):
        alike = [other for name, other in zip(plain, all_fields, strict=True) if name == label]
        differing = [
            key
            for key, value in fields.items()
            if key not in _SAME_RECIPE and value is not None and any(other.get(key) != value for other in alike)
        ]
        distinct.append(", ".join([label, *(field_text(key, fields[key]) for key in differing[:MOST_FIELDS])]))
    return [
        label if distinct.count(label) == 1 else f"{label} ({run.name})"
        for label, run in zip(distinct, runs, strict=True)
    ]


def plain_label(run: RunRows) -> str:
    """The class, the radii of its perturbations, what its branches share, and the images it was trained without."""
    label = f"{run.appearance['label']} {'+'.join(radius_texts(run.experiment['recipe']))}".strip()
    if share := run.experiment.get("share"):
        label += f", share {share}"
    without = run.experiment.get("leave_out")
    return f"{label}, without {PurePath(str(without)).stem}" if without else label


def radii(recipe: Mapping[str, Any]) -> tuple[float, ...]:
    """The different radii of the balls in a recipe's fields, ascending, in [0, 1] pixel units."""
    values = [value for key, value in flat(recipe).items() if key.rpartition(".")[2] == "eps"]
    return tuple(sorted({round(float(value), 9) for value in values if isinstance(value, int | float)}))


def radius_texts(recipe: Mapping[str, Any]) -> list[str]:
    """The radii as text, each in the norm of its ball."""
    fields = flat(recipe)
    texts: dict[str, None] = {}
    for eps in radii(recipe):
        balls = [key.rpartition(".")[0] for key, value in fields.items() if key.endswith("eps") and _is(value, eps)]
        kinds = {str(fields.get(f"{ball}.class")).rpartition(".")[2] for ball in balls}
        texts |= {format_eps(eps, {"Linf": "linf", "L2": "l2"}.get(kind)): None for kind in sorted(kinds)}
    return list(texts)


def _is(value: Any, eps: float) -> bool:
    return isinstance(value, int | float) and round(float(value), 9) == eps


def field_text(key: str, value: Any) -> str:
    """``p 0.1``: the last part of a field's name, and its value."""
    return f"{key.rpartition('.')[2]} {f'{value:g}' if isinstance(value, float) else value}"


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their path: ``{"training.seed": 0, ...}``."""
    return dict(_leaves(fields, prefix))


def _leaves(fields: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
