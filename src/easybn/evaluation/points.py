"""Attacks on a set of points, stage by stage: each works on what the ones before left standing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attacks.drive import Drive, State, no_tick
from ..attacks.objective import margin
from ..attacks.prepare import Prepared, Progress, silent
from ..attacks.verdict import unanswered
from .labels import check_labels
from .plan import Plan
from .record import CLEAN, Record, Stage
from .verdicts import to_attack

Save = Callable[[State], None]
Due = Callable[[], bool]


@dataclass(frozen=True)
class Done:
    """What a stage did.

    Args:
        record: a row a try, in the order of :meth:`~easybn.evaluation.record.Record.sorted`.
        points: int64 (k,), ids of points with an adversarial image, each once; images: (k, ...), on the CPU.
    """

    record: Record
    points: NDArray[np.int64]
    images: Tensor


@dataclass
class Points:
    """The points under attack and what is known of them.

    Args:
        model: from ``prepared``.
        x: images in [0, 1], (N, ...), on any device; y: true classes, int64 (N,).
        ids: int64 (N,), ascending or not, each once: the names of the points in the keys of random numbers.
        plan: what to do.
    """

    model: Prepared
    x: Tensor
    y: Tensor
    ids: NDArray[np.int64]
    plan: Plan
    _logits: Tensor | None = field(default=None, init=False, repr=False)  # (N, K), NaN where not yet known

    def run(
        self,
        stage: Stage,
        points: NDArray[np.int64],
        *,
        resume: State | None = None,
        save: Save | None = None,
        due: Due | None = None,
        progress: Progress = silent,
    ) -> Done:
        """Do to ``points`` (ids) what the stage says; arguments as of :class:`~easybn.attacks.drive.Drive`."""
        rows = torch.as_tensor(self.rows_of(points))
        if stage == CLEAN:
            return self._clean(points, rows, progress)
        if not len(points):
            return Done(Record.of(stage, points, fell=[], distance=[]), points, self.x[:0])
        attack = self.plan.attack(stage)

        def tick(done: int, total: int, left: int) -> None:
            progress(done, total, f"{stage}, {left:,} of {len(points):,} stand")

        drive = Drive(
            self.model, attack, self.x[rows], self.y[rows], torch.as_tensor(points), self._ranking(rows),
            self.plan.seed, self.plan.batch_size, self.plan.beside, tick if progress is not silent else no_tick, save,
            due=due,
        )  # fmt: skip
        attempts = drive.run(resume)
        columns = {name: column.numpy() for name, column in attempts.columns.items()}
        record = Record.of(stage, points[columns.pop("row")], fell=columns["distance"] <= stage.eps, **columns)
        record, found = record.sorted(), attempts.nearest.isfinite()
        return Done(record, points[found.numpy()], attempts.images[found])

    def _clean(self, points: NDArray[np.int64], rows: Tensor, progress: Progress) -> Done:
        logits, y = self._classify(rows, progress), self.y[rows.to(self.y.device)].cpu()
        if broken := int(unanswered(logits).sum()):
            raise ValueError(f"the model's logits are NaN or infinite for {broken} of {len(rows)} images")
        wrong = (logits.argmax(1) != y).numpy()
        by, distance = margin(logits, y).numpy(), np.where(wrong, 0.0, np.inf)
        record = Record.of(CLEAN, points, fell=wrong, distance=distance, margin=by, forwards=1)
        return Done(record.sorted(), points[:0], self.x[:0])

    def classify(self, points: NDArray[np.int64]) -> None:
        """Have the clean logits of ``points`` (ids) computed together, whichever of them are attacked.

        Kernels round differently for other batches: a stage that goes on in another process needs the same logits.
        """
        self._classify(torch.as_tensor(self.rows_of(points)))

    def _classify(self, rows: Tensor, progress: Progress = silent) -> Tensor:
        """(n, K) clean logits of the original model, on the CPU; each point is classified once."""
        done = 0
        for some in torch.split(rows, self.plan.batch_size):
            if self._logits is None or self._logits[some].isnan().any():
                with torch.no_grad():
                    logits = self.model.original(self.model.load(self.x[some.to(self.x.device)])).cpu()
                if self._logits is None:
                    self._logits = torch.full((len(self.x), logits.shape[1]), torch.nan, dtype=logits.dtype)
                    check_labels(self.y, logits.shape[1])
                self._logits[some] = logits
            done += len(some)
            progress(done, len(rows), "clean")
        assert self._logits is not None
        return self._logits[rows]

    def _ranking(self, rows: Tensor) -> Tensor:
        """(n, K - 1) the classes but for the true one, by falling clean logit; -1 for those that are masked by -inf."""
        logits = self._classify(rows).double()
        logits[torch.arange(len(rows)), self.y[rows.to(self.y.device)].cpu()] = torch.inf
        order = logits.argsort(dim=1, descending=True, stable=True)[:, 1:]
        return order.masked_fill(logits.gather(1, order).isneginf(), -1)

    @property
    def classes(self) -> int:
        """How many logits there are."""
        if self._logits is None:
            with torch.no_grad():
                return self.model.original(self.model.load(self.x[:1])).shape[1]
        return self._logits.shape[1]

    @property
    def open_classes(self) -> int:
        """How many logits are not masked by -inf: of the point, among those classified, that has most of them."""
        known = None if self._logits is None else self._logits[~self._logits.isnan().any(1)]
        if known is None or not len(known):
            with torch.no_grad():
                known = self.model.original(self.model.load(self.x[:1]))
        return max(int((~known.isneginf()).sum(1).max()), 2)

    def rows_of(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,), the positions of ``points`` (ids) among all ids."""
        return self._order[np.searchsorted(self.ids, points, sorter=self._order)]

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.ids, kind="stable")


def run_all(points: Points, progress: Progress = silent, keep_images: bool = False) -> list[Done]:
    """Every stage on all points, in this process and its memory; images only if they are to be kept."""
    every: list[Done] = []
    for stage in points.plan.stages:
        before = Record.joined(done.record for done in every)
        done = points.run(stage, to_attack(before, stage, points.ids, points.plan.share), progress=progress)
        every.append(done if keep_images else Done(done.record, done.points[:0], done.images[:0].clone()))
    return every
