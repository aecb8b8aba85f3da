"""Short names for recipes: the class, the radius of its perturbations, and what tells it from its neighbours."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ...perturb.eps import format_eps
from .rows import RunRows

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
    return f"{run.method} {found}".strip() + (f", without {PurePath(str(without)).stem}" if without else "")


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
