"""Verdicts a point, from wherever a run keeps them: its scores, its verdicts.jsonl, its stores.

A verdict row names what was measured (attack, protocol, norm, eps), n, ``points``
(:func:`~.bits.points_digest` of their numbers), ``right`` (:func:`~.bits.packed`, the points in ascending order) and,
of stored attacks, ``broke``: how many points each attack was the first to break.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...attacks.suite import PRESETS
from ...evaluation.paper_numbers import Column
from ...rows import Row
from ...sealed import Damaged
from .bits import packed, points_digest, unpacked
from .columns import is_of
from .rows import RunRows


@dataclass(frozen=True, eq=False)
class PointVerdicts:
    """Args: points: digest of their numbers; right: bool (n,), the points in ascending order."""

    points: str
    right: NDArray[np.bool_]


def point_verdicts(run: RunRows, column: Column) -> PointVerdicts | None:
    """The latest known of a column; None if the run keeps none.

    Of stores that are there, what they hold now: verdicts.jsonl was made of them earlier, and they may have grown.

    Raises:
        ValueError: a row whose packed points are damaged.
    """
    rows = [*run.verdicts, *(row for row in run.scores if "right" in row), *_stored(run.folder, _state(run.folder))]
    of = [row for row in rows if is_of(row, column)]
    if not of:
        return None
    try:
        return PointVerdicts(of[-1]["points"], unpacked(of[-1]["right"], of[-1]["n"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run.folder}: verdicts of {column.name}: {error}") from error


@lru_cache(maxsize=256)  # a table asks for each of its columns
def _stored(folder: Path, state: tuple[tuple[str, int, int], ...]) -> tuple[Row, ...]:
    return tuple(stored(folder)) if state else ()


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """The manifests and attempts of the stores, with their sizes and times."""
    found = [path for what in ("manifest.json", "attempts/*") for path in folder.glob(f"verdicts/*/{what}")]
    files = ((str(path), path.stat()) for path in sorted(found))
    return tuple((name, about.st_size, about.st_mtime_ns) for name, about in files)


def stored(folder: Path) -> Iterator[Row]:
    """A verdict row for each radius of each store of the deployed branch; chunks that are not whole are left out.

    Raises:
        Damaged: a file of a store is damaged.

    Warns:
        UserWarning: chunks that should be there are not.
    """
    from ...evaluation.budget import expected_chunks
    from ...evaluation.store import Store

    for path in sorted(folder.glob("verdicts/*/manifest.json"), key=lambda path: path.stat().st_mtime):
        store = Store.existing(path.parent)
        if not store.deployed:
            continue
        verdicts = store.verdicts()
        whole = np.isin([store.manifest.points_of(chunk)[0] for chunk in range(store.manifest.chunks)], verdicts.points)
        for chunk in np.flatnonzero(~whole).tolist():
            if damage := store.damage(chunk):
                raise Damaged(f"{damage}: the easybn evaluate that made it makes it again")
        if lost := set(expected_chunks(store)) - set(np.flatnonzero(whole).tolist()):
            count = f"{len(verdicts.points):,} of {len(store.manifest.points):,} points"
            told = f"{path.parent}: {count} are there and used; chunk {min(lost)} is not: is the evaluation finished?"
            warnings.warn(told, stacklevel=2)
        order = np.argsort(verdicts.points)
        for eps in store.manifest.eps if len(order) else ():
            yield {
                **_names(store.manifest.attacks),
                "norm": store.manifest.norm,
                "eps": eps,
                "n": len(order),
                "points": points_digest(verdicts.points.tolist()),
                "right": packed(verdicts.robust(eps)[order]),
                "broke": verdicts.broken_by(eps),
            }


def _names(attacks: Sequence[str]) -> dict[str, Any]:
    """attack and protocol as a score has them."""
    preset = next((name for name, of in PRESETS.items() if tuple(of) == tuple(attacks)), None)
    return {"attack": "autoattack" if preset else "+".join(attacks), "protocol": preset}
