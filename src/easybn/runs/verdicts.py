"""What a run's folder keeps of its evaluations: the verdict on each point, and the findings of the diagnoses.

Each verdict is kept once. Attacks with a store keep a record of every attempt (``verdicts/*/attempts``), from which
verdicts are derived; clean accuracy and PGD without a store keep one bit per point in their row of scores.jsonl. As
stores are large and stay on the machine, ``easybn summarise`` exports what they say to verdicts.jsonl: where a store is
there, it counts, and not the export.

A *verdict row* names what was measured (attack, protocol, norm, eps), n, ``points``
(:func:`~easybn.evaluation.verdicts.points_digest` of the points' ids), ``right``
(:func:`~easybn.evaluation.verdicts.pack_bits`, the points in ascending order) and, of stored attacks, ``broke``: how
many points each attack was the first to break; the row of the largest radius has the ``curve`` of all radii
(:meth:`~easybn.evaluation.curve.RobustnessCurve.sampled`).
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..attacks.registry import PRESETS
from ..evaluation.auditing import AUDIT, FastRun, audit_stores, broken_by, is_fast, stored_audit
from ..evaluation.config import row_attack
from ..evaluation.curve import RobustnessCurve
from ..evaluation.record import Record
from ..evaluation.resumable import expected_chunks
from ..evaluation.store import Damaged, Store
from ..evaluation.verdicts import Verdicts, pack_bits, points_digest, unpack_bits
from ..json_files import Row, read_json
from ..perturb.eps import format_eps
from ..rows import EVALUATED, FINDINGS

SAME_RADIUS = 1e-9
"""Radii such as 8/255 that come by way of text are the same up to this."""


@dataclass(frozen=True, eq=False)
class PointVerdicts:
    """Which points a model gets right.

    Args:
        points: digest of the points' ids: verdicts are compared within one digest only.
        right: bool (n,), the points in ascending order.
    """

    points: str
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, row: Row) -> "PointVerdicts":
        """Of a verdict row; ValueError if it is damaged."""
        try:
            return cls(row["points"], unpack_bits(row["right"], row["n"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no verdict row: {error}") from error


def verdict_rows(folder: Path, scores: Sequence[Row], exported: Sequence[Row]) -> list[Row]:
    """Every verdict row of a run, the one that counts last.

    Args:
        folder: of the run.
        scores: its rows of scores.jsonl; exported: of verdicts.jsonl.

    Raises:
        Damaged: a file of a store is damaged.
    """
    return [*exported, *(row for row in scores if "right" in row), *_cached(folder, _state(folder))]


@lru_cache(maxsize=256)  # a table asks once for each of its columns
def _cached(folder: Path, state: tuple[tuple[str, int, int], ...]) -> tuple[Row, ...]:
    return tuple(store_verdicts(folder)) if state else ()


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """The manifests and attempts of the stores and their audits, with their sizes and times."""
    kinds = ("manifest.json", "attempts/*", "audit.json", "audit/*/manifest.json", "audit/*/attempts/*")
    files = sorted(path for kind in kinds for path in folder.glob(f"verdicts/*/{kind}"))
    return tuple((str(path), status.st_size, status.st_mtime_ns) for path in files for status in (path.stat(),))


def store_verdicts(folder: Path) -> Iterator[Row]:
    """A verdict row for each radius of each store of the deployed branch, from its finished chunks.

    Args:
        folder: of the run.

    Raises:
        Damaged: a file of a store is damaged.

    Warns:
        UserWarning: chunks that should be there are not.
    """
    for path in sorted(folder.glob("verdicts/*/manifest.json"), key=lambda path: path.stat().st_mtime):
        store = Store.existing(path.parent)
        if not store.deployed:
            continue
        manifest, verdicts = store.manifest, finished_verdicts(store)
        order = np.argsort(verdicts.points)
        # of a store in which only clean accuracy was measured there are none
        radii = [radius for radius in manifest.eps if radius in verdicts.broken_at and len(order)]
        for eps in radii:
            row = {
                **_attack_of_row(manifest.attacks),
                "norm": manifest.norm,
                "eps": eps,
                "n": len(order),
                "points": points_digest(verdicts.points.tolist()),
                "right": pack_bits(verdicts.robust(eps)[order]),
                "broke": broken_by(verdicts, eps) if is_fast(store) else verdicts.broken_by(eps),
            }
            yield row | ({"curve": curve_of(store, verdicts).sampled()} if eps == radii[-1] else {})


def finished_verdicts(store: Store) -> Verdicts:
    """The verdicts on the points of all finished chunks; what the audit of fast broke is broken.

    Raises:
        Damaged: a file of the store is damaged.

    Warns:
        UserWarning: chunks that should be there are not.
    """
    manifest, verdicts = store.manifest, store.verdicts()
    there = np.isin([manifest.points_of(chunk)[0] for chunk in range(manifest.chunks)], verdicts.points)
    for chunk in np.flatnonzero(~there).tolist():
        if damage := store.damage(chunk):
            raise Damaged(f"{damage}: the easybn evaluate that made it makes it again")
    if lost := set(expected_chunks(store)) - set(np.flatnonzero(there).tolist()):
        count = f"{len(verdicts.points):,} of {len(manifest.points):,} points"
        message = f"{store.folder}: {count} are there and used; chunk {min(lost)} is not: is the evaluation finished?"
        warnings.warn(message, stacklevel=2)
    if not is_fast(store):
        return verdicts
    return stored_audit(store, FastRun.of_store(store, store.record, verdicts.points)).verdicts


def curve_of(store: Store, verdicts: Verdicts) -> RobustnessCurve:
    """The curve of a store and its audits on the points of ``verdicts``; ValueError if it attacked none."""
    record = Record.joined(each.record for each in (store, *audit_stores(store)))
    radii = [eps for eps in store.manifest.eps if store.manifest.attacks]
    robust_at = {eps: verdicts.robust(eps) for eps in radii}
    return RobustnessCurve.of(store.manifest.norm, record, verdicts.points, robust_at)


# Which of a run's stores a user means.

STORE_OF: dict[str, tuple[str, ...]] = {
    "pgd": ("pgd-ce", "pgd-margin"),
    "clean": (),
    "autoattack": tuple(PRESETS["standard"]),
}
"""Attacks of a store, by other names that users give them."""


def find_store(
    folder: Path,
    attacks: Sequence[str] = (),
    norm: str | None = None,
    eps: Sequence[float] = (),
    branch: str | None = None,
) -> Store:
    """The store that ``folder`` is, or the one below its ``verdicts/`` that fits what is asked for.

    Args:
        folder: of a store, a run, or the evaluations of a user's model.
        attacks: names, or a preset; norm; eps: radii that were attacked; branch: by default the deployed one.

    Raises:
        FileNotFoundError: there is no such folder, or no store in it.
        ValueError: none fits, or several do; the message names them.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if (folder / "manifest.json").exists():
        return Store.existing(folder)
    stores = [Store.existing(path.parent) for path in sorted(folder.glob("verdicts/*/manifest.json"))]
    if not stores:
        raise FileNotFoundError(f"{folder} has no stored verdicts: easybn evaluate {folder} --attacks autoattack")
    members = [name for each in attacks for name in STORE_OF.get(each, tuple(PRESETS.get(each, (each,))))]

    def fits(store: Store) -> bool:
        manifest = store.manifest
        return (
            (manifest.branch == branch if branch else store.deployed)
            and ({*manifest.attacks} == {*members} if attacks else bool(manifest.attacks))
            and norm in (None, manifest.norm)
            and all(any(abs(radius - each) < SAME_RADIUS for radius in manifest.eps) for each in eps)
        )

    fitting = [store for store in stores if fits(store)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(str(store.folder) for store in fitting or stores)
    if fitting:
        raise ValueError(f"{folder} has {len(fitting)} evaluations that fit: choose by --attacks, --norm, --eps or "
                         f"name one of {names}")  # fmt: skip
    raise ValueError(f"{folder} has no evaluation that fits: name one of {names}")


def home_of(store: Path) -> Path:
    """The folder of the run, or of a user's model, that a store is of; of an audit too."""
    folder = store.resolve()
    return (folder.parent.parent if folder.parent.name == AUDIT else folder).parent.parent


def describe_store(store: Store) -> str:
    """``AutoAttack standard, linf 2/255 8/255, 200 points``"""
    manifest, row = store.manifest, _attack_of_row(store.manifest.attacks)
    attack = f"AutoAttack {row['protocol']}" if row["protocol"] else row["attack"] or "clean"
    radii = " ".join(format_eps(eps, manifest.norm) for eps in manifest.eps)
    branch = f", branch {manifest.branch}" if manifest.branch not in (None, "main") else ""
    audit = "" if not is_fast(store) else " (audited)" if audit_stores(store) else " (not audited)"
    return f"{attack}{audit}, {manifest.norm} {radii}, {len(manifest.points):,} points{branch}"


def _attack_of_row(attacks: Sequence[str]) -> dict[str, Any]:
    """attack and protocol as a row of scores has them."""
    preset = next((name for name, members in PRESETS.items() if tuple(members) == tuple(attacks)), None)
    return row_attack(preset, attacks)


def findings_in(folder: Path, scores: Sequence[Row]) -> list[Row]:
    """What every diagnosis of a run's evaluations found: kept in stores, in rows of scores, and by a study.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    of_stores = [
        read_json(path, {}, {"findings": FINDINGS}) for path in sorted(folder.glob("verdicts/*/findings.json"))
    ]
    of_study = read_json(folder / "evaluated.json", [], EVALUATED)
    diagnoses: list[list[Row]] = []
    for entry in (*of_stores, *scores, *of_study):
        if (findings := entry.get("findings", [])) not in diagnoses:  # a study repeats those of the stores
            diagnoses.append(findings)
    return [finding for findings in diagnoses for finding in findings]
