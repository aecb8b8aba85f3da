"""Attacks on a set of points, stage by stage: each works on the points that those before it did not break."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attacks.attack import Attack, invalid_logits
from ..attacks.attack_mode import TargetModel
from ..attacks.losses import margin
from ..attacks.registry import UNBOUNDED
from ..attacks.runner import AttackRunner, RunnerState
from ..progress import OnProgress, silent
from .config import EvaluateConfig
from .record import CLEAN, Record, Stage, check_stage
from .verdicts import to_attack

# Labels that fit a model.


def check_labels(y: Tensor, classes: int) -> None:
    """ValueError unless all labels (int64, (N,), N at least 1) are among 0 .. classes - 1."""
    low, high = (int(v) for v in y.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in 0 .. {classes - 1} for {classes} logits, got {low} .. {high}")


# What is done to every point: attacks at several radii, stage by stage, clean first.


@dataclass(frozen=True)
class Plan:
    """What is done to every point, in order.

    Args:
        attacks: for each radius, ascending, the attacks in their order; the same names at each.
        seed: of all that is random.
        batch_size: images a pass at most.
        min_active: where fewer rows than that are active, further attempts at the same points join them.
        share: a point that is broken at one radius is not attacked at the larger ones.
    """

    attacks: Mapping[float, Sequence[Attack]]
    seed: int = 0
    batch_size: int = 256
    min_active: int = 32
    share: bool = True

    @classmethod
    def of(cls, config: EvaluateConfig) -> "Plan":
        """What a config says."""
        attacks = {eps: config.attacks_at(eps) for eps in sorted(config.eps)}
        return cls(attacks, config.seed, config.batch_size, share=config.share)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Clean first, then every attack at every radius, the smallest radius first."""
        return (CLEAN, *self._by_stage)

    @cached_property
    def _by_stage(self) -> dict[Stage, Attack]:
        return {Stage(attack.name, eps): attack for eps in sorted(self.attacks) for attack in self.attacks[eps]}

    @cached_property
    def unbounded(self) -> frozenset[str]:
        """Names of the attacks that search for the nearest adversarial image, whatever the radius."""
        return frozenset(attack.name for attack in self._by_stage.values() if not attack.bounded)

    def attack(self, stage: Stage) -> Attack:
        """The attack of a stage other than the clean one."""
        return self._by_stage[stage]


Save = Callable[[RunnerState], None]
Due = Callable[[], bool]


@dataclass(frozen=True)
class StageDone:
    """What a stage did.

    Args:
        record: a row per attempt, in the order of :meth:`~easybn.evaluation.record.Record.sorted`.
        points: int64 (k,), ids of points with an adversarial image, each once; images: (k, ...), on the CPU.
    """

    record: Record
    points: NDArray[np.int64]
    images: Tensor


@dataclass
class Points:
    """The points under attack and what is known of them.

    Args:
        model: from ``attack_mode``.
        x: images in [0, 1], (N, ...), on any device; y: true classes, int64 (N,).
        ids: int64 (N,), ascending or not, each once: the names of the points in the keys of random numbers.
        plan: what to do.
    """

    model: TargetModel
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
        resume: RunnerState | None = None,
        save: Save | None = None,
        due: Due | None = None,
        progress: OnProgress = silent,
    ) -> StageDone:
        """Do to ``points`` (ids) what the stage says; arguments as of :class:`~easybn.attacks.runner.AttackRunner`."""
        rows = torch.as_tensor(self.rows_of(points))
        if stage == CLEAN:
            return self._clean(points, rows, progress)
        if not len(points):
            return StageDone(Record.of(stage, points, success=[], distance=[]), points, self.x[:0].cpu())
        attack = self.plan.attack(stage)

        def on_step(done: int, total: int, remaining: int) -> None:
            progress(done, total, f"{stage}, {remaining:,} of {len(points):,} remain")

        runner = AttackRunner(
            self.model, attack, self.x[rows], self.y[rows], torch.as_tensor(points), self._ranking(rows),
            self.plan.seed, self.plan.batch_size, self.plan.min_active, None if progress is silent else on_step, save,
            save_due=due,
        )  # fmt: skip
        result = runner.run(resume)
        columns = {name: column.numpy() for name, column in result.columns.items()}
        record = Record.of(stage, points[columns.pop("row")], success=columns["distance"] <= stage.eps, **columns)
        record, found = record.sorted(), result.best_distance.isfinite()
        return StageDone(record, points[found.numpy()], result.images[found])

    def _clean(self, points: NDArray[np.int64], rows: Tensor, progress: OnProgress) -> StageDone:
        logits, y = self._classify(rows, progress), self.y[rows.to(self.y.device)].cpu()
        if len(broken := points[invalid_logits(logits).numpy()]):
            images = f"{len(broken)} of {len(rows)} images, such as that of point {broken[0]}"
            raise ValueError(f"the model's logits are NaN or infinite for {images}")
        wrong = (logits.argmax(1) != y).numpy()
        by, distance = margin(logits, y).numpy(), np.where(wrong, 0.0, np.inf)
        record = Record.of(CLEAN, points, success=wrong, distance=distance, margin=by, forwards=1)
        return StageDone(record.sorted(), points[:0], self.x[:0].cpu())

    def classify(self, points: NDArray[np.int64]) -> None:
        """Have the clean logits of ``points`` (ids) computed together, whichever of them are attacked.

        Kernels round differently for other batches: a stage that goes on in another process needs the same logits.
        """
        self._classify(torch.as_tensor(self.rows_of(points)))

    def _classify(self, rows: Tensor, progress: OnProgress = silent) -> Tensor:
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
        """(n, K - 1) the classes except the true one, by descending clean logit; -1 for those masked by -inf.

        But not for the first: elsewhere in the ball other classes may be masked, and every point is to be attacked.
        """
        logits = self._classify(rows).double()
        logits[torch.arange(len(rows)), self.y[rows.to(self.y.device)].cpu()] = torch.inf
        order = logits.argsort(dim=1, descending=True, stable=True)[:, 1:]
        masked = logits.gather(1, order).isneginf()
        masked[:, 0] = False
        return order.masked_fill(masked, -1)

    def subset(self, rows: NDArray[np.int64], plan: Plan) -> "Points":
        """The points at ``rows``, for another plan.

        Of a model that draws random numbers with their clean logits: another pass would be another verdict. (Of any
        other they are computed anew, in the same batches whichever process does it.)
        """
        index = torch.as_tensor(rows)
        there = index.to(self.x.device)
        some = Points(self.model, self.x[there], self.y[there], self.ids[rows], plan)
        if self.model.randomised and self._logits is not None:
            some._logits = self._logits[index]
        return some

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
        return int((~known.isneginf()).sum(1).max())

    def rows_of(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,), the positions of ``points`` (ids) among all ids."""
        return self._order[np.searchsorted(self.ids, points, sorter=self._order)]

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.ids, kind="stable")


def run_all(points: Points, progress: OnProgress = silent, keep_images: bool = False) -> list[StageDone]:
    """Every stage on all points, in this process and its memory; images only if they are to be kept."""
    every: list[StageDone] = []
    for stage in points.plan.stages:
        before = Record.joined(done.record for done in every)
        todo = to_attack(before, stage, points.ids, points.plan.share, points.plan.unbounded)
        done = points.run(stage, todo, progress=progress)
        check_stage(done.record, stage, todo)
        every.append(done if keep_images else StageDone(done.record, done.points[:0], done.images[:0].clone()))
    return every


# The attacked image of every point at every radius, from what each stage kept.


def attacked_images(
    x: Tensor,
    points: NDArray[np.int64],
    found: Iterable[StageDone],
    radii: Sequence[float],
    share: bool = True,
    unbounded: Collection[str] = UNBOUNDED,
) -> dict[float, Tensor]:
    """The nearest adversarial image within each radius, and the image itself where there is none.

    Args:
        x: the images, (n, ...), in the type of the result.
        points: int64 (n,), their ids.
        found: by each stage, in any order; points other than these are left aside.
        radii: in [0, 1] pixel units.
        share: whether what was broken at a smaller radius counts, see :func:`easybn.evaluation.verdicts.proves`.

    Returns:
        (n, ...) for each radius.
    """
    out = {eps: x.clone() for eps in radii}
    nearest = {eps: np.full(len(points), np.inf) for eps in radii}
    order = np.argsort(points, kind="stable")
    for done in found:
        known = np.isin(done.points, points)
        if not known.any():
            continue
        ids, images = done.points[known], done.images[torch.as_tensor(known)]
        attack, at = str(done.record.attack[0]), float(done.record.eps[0])
        rows, distance = order[np.searchsorted(points, ids, sorter=order)], _distances(done, ids)
        for eps in radii:
            if at != eps and attack not in unbounded and (not share or at > eps):
                continue
            better = (distance <= eps) & (distance < nearest[eps][rows])
            nearest[eps][rows[better]] = distance[better]
            out[eps][torch.as_tensor(rows[better])] = images[torch.as_tensor(better)].to(x)
    return out


def _distances(done: StageDone, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,) the smallest distance that the record has for each of ``ids``."""
    nearest: dict[int, float] = {}
    for point, distance in zip(done.record.point.tolist(), done.record.distance.tolist(), strict=True):
        nearest[point] = min(distance, nearest.get(point, np.inf))
    return np.array([nearest[point] for point in ids.tolist()])
