"""The audit of the preset fast: which of the points that it left, and what the attempts of AutoAttack standard tell.

Audited are all *suspicious* survivors (their best margin was near zero, or their gradients vanished) and a random
sample of the others, at each radius by an evaluation of its own. What was attacked before is not attacked again: a
larger sample has a smaller one in it, and a point that the audit of a smaller radius broke is broken. In a store these
evaluations are stores of their own, below ``audit/`` in its folder. :mod:`.run_audit` runs them; here is no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..attacks.registry import PRESETS, UNBOUNDED
from ..json_files import read_json, write_json
from ..keyed_random import Noise
from .audit import Audit
from .config import FAST
from .record import CLEAN, Record, Stage
from .store import Store
from .verdicts import Verdicts, derive, points_digest

STANDARD = tuple(PRESETS["standard"])
"""The attacks of an audit."""
AUDIT = "audit"
"""In counts of what each attack broke: what only the audit did."""
NEAR = 0.03
"""A survivor is suspicious if fast reached a margin above minus this share of the clean one's size."""
VANISHED = 0.5
"""A survivor is suspicious if at least this share of the gradients of fast's last attack were zero or not finite."""


# Which points are audited.


class Survivors(NamedTuple):
    """The points that fast left at one radius.

    Args:
        suspicious: int64, ids of those that are audited in any case, ascending.
        others: int64, ids of the others in the order in which they are drawn.
    """

    suspicious: NDArray[np.int64]
    others: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FastRun:
    """What the attacks of fast did to some points.

    Args:
        record: every attempt at them.
        points: int64 (n,), their ids.
        stages: clean, then every attack at every radius.
        seed: of all that is random, the draw too.
        share: see :func:`~easybn.evaluation.verdicts.proves`.
    """

    record: Record
    points: NDArray[np.int64]
    stages: tuple[Stage, ...]
    seed: int
    share: bool

    @classmethod
    def of_store(cls, store: Store, record: Record, points: NDArray[np.int64]) -> "FastRun":
        """Of the finished chunks of a store."""
        return cls(record, points, store.manifest.stages, store.manifest.seed, store.manifest.share)

    @cached_property
    def verdicts(self) -> Verdicts:
        """Under the attacks of fast alone."""
        return derive(self.record, self.points, self.stages, self.share)

    @property
    def radii(self) -> list[float]:
        """Ascending."""
        return sorted({stage.eps for stage in self.stages if stage != CLEAN})

    def survivors(self, eps: float) -> Survivors:
        """The draw depends on the seed and each point's id alone: not on chunks, order, other radii or other points."""
        ids = np.sort(self.points[self.verdicts.robust(eps)])
        suspicious = self._suspicious(ids, eps)
        others = ids[~suspicious]
        keys = Noise.of(self.seed, "audit", torch.as_tensor(others)).keys.numpy()
        return Survivors(ids[suspicious], others[np.argsort(keys, kind="stable")])

    def _suspicious(self, ids: NDArray[np.int64], eps: float) -> NDArray[np.bool_]:
        """bool (n,): of sorted ``ids``, those that came near to falling, or at which the gradients vanished."""
        record, n = self.record.where(np.isin(self.record.point, ids)), len(ids)
        row = np.searchsorted(ids, record.point)
        clean, here = record.attack == CLEAN.attack, record.eps == eps
        size, best, steps, lost = np.zeros(n), np.full(n, -np.inf), np.zeros(n), np.zeros(n)
        size[row[clean]] = np.abs(record.margin[clean])
        known = here & ~np.isnan(record.margin)
        np.maximum.at(best, row[known], record.margin[known])
        last = here & (record.attack == self.stages[-1].attack)
        np.add.at(steps, row[last], record.backwards[last])
        np.add.at(lost, row[last], record.zero_gradients[last] + record.non_finite[last])
        return (best > -NEAR * size) | ((lost > 0) & (lost >= VANISHED * steps))

    def chosen(self, eps: float, drawn: int) -> NDArray[np.int64]:
        """The ids of the points to audit: all suspicious ones and the first ``drawn`` of the others."""
        suspicious, others = self.survivors(eps)
        return np.concatenate([suspicious, others[:drawn]])


# What the attempts at them tell.


@dataclass(frozen=True, eq=False)
class Attempts:
    """``standard`` on some survivors at one radius, to the end.

    Args:
        eps: the radius.
        points: int64 (k,), their ids.
        record: every attempt at them.
    """

    eps: float
    points: NDArray[np.int64]
    record: Record


@dataclass(frozen=True, eq=False)
class Audited:
    """A run of fast and its audit.

    Args:
        record: every attempt, those of the audit after those of fast.
        verdicts: under all of them.
        audits: what the audit found at each radius; None while some of the points to audit were not.
    """

    record: Record
    verdicts: Verdicts
    audits: dict[float, Audit] | None


def all_attempts(run: FastRun, audits: Sequence[Attempts]) -> tuple[Record, Verdicts]:
    """Every attempt, those of audits after those of fast, and the verdicts under all of them."""
    records = [run.record]
    for each in audits:  # clean images were classified again: told only if, at random, the answer is another one
        record = each.record.where(np.isin(each.record.point, run.points))
        records.append(record.where((record.attack != CLEAN.attack) | record.success))
    radii = sorted({each.eps for each in audits})
    stages = [*run.stages, *(Stage(attack, eps) for eps in radii for attack in STANDARD)]
    record = Record.joined(records)
    return record, derive(record, run.points, stages, run.share, UNBOUNDED)


def missing(run: FastRun, eps: float, drawn: int, audits: Sequence[Attempts]) -> NDArray[np.int64]:
    """The ids of the points that are still to be audited: not those that any audit, at whatever radius, has broken."""
    _, verdicts = all_attempts(run, audits)
    over = [run.points[~verdicts.robust(eps)], *(each.points for each in audits if each.eps == eps)]
    chosen = run.chosen(eps, drawn)
    return chosen[~np.isin(chosen, np.concatenate(over))]


def audited(run: FastRun, drawn: Mapping[float, int], audits: Sequence[Attempts]) -> Audited:
    """A run of fast together with all audits of it.

    Args:
        drawn: how many survivors that are not suspicious belong to the sample, for each radius.
    """
    record, verdicts = all_attempts(run, audits)
    if any(len(missing(run, eps, drawn.get(eps, 0), audits)) or eps not in drawn for eps in run.radii):
        return Audited(record, verdicts, None)
    found = {}
    for eps in run.radii:
        suspicious, others = run.survivors(eps)
        sample = others[: drawn[eps]]
        broken = run.points[run.verdicts.robust(eps) & ~verdicts.robust(eps)]
        by = [verdicts.stages[stage].attack for stage in verdicts.broken_at[eps][np.isin(run.points, broken)]]
        found[eps] = Audit(
            survivors=len(suspicious) + len(others),
            suspicious=len(suspicious),
            drawn=len(sample),
            broke_suspicious=int(np.isin(suspicious, broken).sum()),
            broke_drawn=int(np.isin(sample, broken).sum()),
            broke={name: by.count(name) for name in dict.fromkeys([*STANDARD, *by])},
        )
    return Audited(record, verdicts, found)


def broken_by(verdicts: Verdicts, eps: float) -> dict[str, int]:
    """:meth:`~easybn.evaluation.verdicts.Verdicts.broken_by` of a run of fast; what its audit broke as ``AUDIT``."""
    counts = verdicts.broken_by(eps)
    audit = [counts.pop(name) for name in STANDARD if name in counts]
    return {**counts, AUDIT: sum(audit)} if audit else counts


# In a store: the attempts are stores of their own, in its folder; a note says how many points the sample has.

NOTE = "audit.json"


def audit_stores(store: Store) -> list[Store]:
    """Those of the audits of a store, finished or not."""
    folders = sorted(path.parent for path in store.folder.glob(f"{AUDIT}/*/manifest.json"))
    return [Store.existing(folder, store.report) for folder in folders]


def finished_audits(store: Store) -> list[Store]:
    """Those that are done to the end."""
    every = audit_stores(store)
    return [each for each in every if all(each.chunk_record(i) is not None for i in range(each.manifest.chunks))]


def finished_attempts(store: Store) -> list[Attempts]:
    """What is stored of audits that are done to the end."""
    return [
        Attempts(each.manifest.eps[0], np.array(each.manifest.points, np.int64), each.record)
        for each in finished_audits(store)
    ]


def is_fast(store: Store) -> bool:
    """Whether a store is of the preset fast."""
    return store.manifest.attacks == tuple(PRESETS[FAST])


def stored_audit(store: Store, run: FastRun) -> Audited:
    """A run of fast with the audits that its store holds."""
    return audited(run, read_sample(store, run), finished_attempts(store))


def read_sample(store: Store, run: FastRun) -> dict[float, int]:
    """How many points the sample of each radius has; empty if that is not known, or of other points."""
    note = read_json(store.folder / NOTE, {})
    if note.get("points") != points_digest(run.points.tolist()):
        return {}
    return {float(eps): int(drawn) for eps, drawn in note["drawn"].items()}


def write_sample(store: Store, run: FastRun, drawn: Mapping[float, int]) -> None:
    """Keep how many points the samples have; a larger one that is there stays."""
    kept = read_sample(store, run)
    drawn = {eps: max(count, kept.get(eps, 0)) for eps, count in drawn.items()}
    if drawn != kept:
        note = {"points": points_digest(run.points.tolist()), "drawn": {repr(eps): n for eps, n in drawn.items()}}
        with store.at_work():
            write_json(store.folder / NOTE, note, indent=None)


def seconds_with_audits(store: Store) -> float:
    """Seconds that the stored stages of a store and its audits took."""
    return sum(each.seconds for each in (store, *audit_stores(store)))
