"""Runs the audit of the preset fast, in memory and in a store, and plans its part of a budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..progress import OnProgress
from .audit import sample_of
from .auditing import (
    AUDIT,
    Attempts,
    Audited,
    FastRun,
    audited,
    finished_attempts,
    finished_audits,
    missing,
    stored_audit,
    write_sample,
)
from .config import EvaluateConfig
from .estimate import robust_seconds
from .points import Plan, Points, StageDone, run_all
from .record import Record
from .resumable import pilot_seconds, planned, run_resumable, stages_done, unit_seconds
from .store import Store
from .verdicts import points_digest

CHUNK = 32
"""Points that are audited together: fewer make passes of too few rows, more leave nothing to processes side by side."""


@dataclass(frozen=True)
class AuditBudget:
    """The time of the audit in a budget (a :class:`~easybn.evaluation.resumable.FollowUp`): at most half of what the
    pilot leaves goes to points that are drawn, and suspicious ones are audited whatever they take.

    Args:
        points, config: of the evaluation.
    """

    points: Points
    config: EvaluateConfig

    def measure(self) -> float:
        """Seconds of a point that withstands ``standard``, by a few timed steps."""
        config = _by_standard(self.config, max(self.config.eps))
        attacks, x, y = config.attacks_at(config.eps[0]), self.points.x[:CHUNK], self.points.y[:CHUNK]
        return sum(robust_seconds(self.points.model, each, x, y, config.batch_size) for each in attacks)

    def sample(self, unit: float, remaining: float) -> int:
        """Points of a sample that half of the remaining seconds are enough for, at least 1."""
        return max(1, int(remaining / 2 / max(unit * len(self.config.eps), 1e-6)))

    def seconds(self, unit: float, remaining: float, pilot: Record, chunks: int) -> float:
        """As many points as the pilot's survivors let expect."""
        ids = np.unique(pilot.point)
        run = FastRun(pilot, ids, self.points.plan.stages, self.config.seed, self.config.share)
        expected, n = 0.0, chunks * len(ids)
        for eps in run.radii:
            suspicious, others = (chunks * len(each) for each in run.survivors(eps))
            wanted = sample_of(others, n, self.config.audit, self.config.audit_width)
            expected += suspicious + min(wanted, self.sample(unit, remaining))
        return unit * expected


# The audit, in memory and in a store.

Attack = Callable[[Points, EvaluateConfig], Attempts]


def run_audit(
    points: Points, config: EvaluateConfig, run: FastRun, known: Sequence[Attempts], attack: Attack, most: int
) -> tuple[dict[float, int], list[Attempts]]:
    """Audit a run of fast: at each radius, the smallest first, what is not known yet.

    Args:
        points: all that were given; config: of the evaluation by fast.
        known: what was attacked before.
        attack: evaluates some points by a config of ``standard``, to the end.
        most: points of a sample at most, as a budget allows.

    Returns:
        How many points the sample of each radius has, and all attempts.
    """
    drawn, audits = {}, [*known]
    for eps in run.radii:
        others, n = len(run.survivors(eps).others), len(run.points)
        drawn[eps] = min(sample_of(others, n, config.audit, config.audit_width), most)
        todo = missing(run, eps, drawn[eps], audits)
        if len(todo):
            audits.append(attack(_subset(points, _by_standard(config, eps), todo), _by_standard(config, eps)))
    return drawn, audits


def audit_in_memory(
    points: Points, config: EvaluateConfig, run: FastRun, progress: OnProgress
) -> tuple[Audited, list[StageDone]]:
    """The audit of a run of fast, in this process; also what each of its stages found."""
    done = list[StageDone]()
    if config.audit == 0:
        return audited(run, {}, []), []

    def attack(some: Points, by: EvaluateConfig) -> Attempts:
        stages = run_all(some, _named(progress), config.keep_images)
        done.extend(stages)
        return Attempts(by.eps[0], some.ids, Record.joined(stage.record for stage in stages))

    drawn, audits = run_audit(points, config, run, [], attack, len(run.points))
    return audited(run, drawn, audits), done


def audit_in_store(
    points: Points, config: EvaluateConfig, store: Store, run: FastRun, progress: OnProgress
) -> tuple[Audited, list[StageDone]]:
    """The audit of what is done of a store: what is missing is attacked and kept in it; returns as the one in memory.

    Raises:
        OSError, ValueError: as of :func:`~easybn.evaluation.resumable.run_resumable`.
    """

    def attack(some: Points, by: EvaluateConfig) -> Attempts:
        name = f"{by.norm}-{by.eps[0]:.4g}-{points_digest(some.ids.tolist())}"
        found = run_resumable(some, by, store.folder / AUDIT / name, _named(progress))
        return Attempts(by.eps[0], found.points, found.record)

    if config.audit != 0:
        most = len(run.points)
        if config.budget is not None:
            remaining = planned(config.budget, pilot_seconds(store))
            most = AuditBudget(points, config).sample(unit_seconds(store), remaining)
        drawn, _ = run_audit(points, config, run, finished_attempts(store), attack, most)
        write_sample(store, run, drawn)
    images = [done for each in finished_audits(store) for done in stages_done(each, range(each.manifest.chunks))]
    return stored_audit(store, run), images


def _by_standard(config: EvaluateConfig, eps: float) -> EvaluateConfig:
    """The evaluation by ``standard`` at one radius, all else the same."""
    alone = replace(config, attacks=("standard",), eps=(eps,), audit=None, audit_width=None)
    return replace(alone, chunk=CHUNK, budget=None, shard=None)


def _subset(points: Points, config: EvaluateConfig, ids: NDArray[np.int64]) -> Points:
    """Those of the points, in the order in which they were given, for another evaluation."""
    return points.subset(np.sort(points.rows_of(ids)), Plan.of(config))


def _named(progress: OnProgress) -> OnProgress:
    return lambda done, total, what: progress(done, total, f"audit: {what}")
