"""Which points are robust, and what broke the others: derived from the record of attempts."""

import base64
import binascii
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..attacks.registry import UNBOUNDED
from ..stats import Interval, accuracy_interval
from .record import CLEAN, Record, Stage

# Which of n points a model gets right, as text that fits into a row: eight points per byte, in base64.


def pack_bits(right: ArrayLike) -> str:
    """bool (n,) as text of about n / 6 characters."""
    return base64.b64encode(np.packbits(np.asarray(right, bool)).tobytes()).decode()


def unpack_bits(text: str, n: int) -> NDArray[np.bool_]:
    """bool (n,) that :func:`pack_bits` gave.

    Raises:
        ValueError: text of another number of points.
    """
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except binascii.Error as error:
        raise ValueError(f"no packed points: {error}") from error
    if len(data) != -(-n // 8):
        raise ValueError(f"packed points: {len(data)} bytes for {n} points")
    return np.unpackbits(data, count=n).astype(bool)


def points_digest(ids: Iterable[int]) -> str:
    """Eight hexadecimal digits of the points' numbers, in ascending order: verdicts are paired within one digest."""
    ordered = np.sort(np.fromiter(ids, np.int64))
    return hashlib.blake2b(ordered.astype("<i8").tobytes(), digest_size=4).hexdigest()


def proves(record: Record, eps: float, share: bool = True, unbounded: Collection[str] = UNBOUNDED) -> NDArray[np.bool_]:
    """bool (R,): the rows that prove that their point is broken at ``eps``.

    A point that is misclassified as it is is broken at every radius.

    Args:
        record: attempts in one norm.
        eps: radius in [0, 1] pixel units.
        share: what was broken at a smaller radius is broken at this one, which is true of the points; False
            measures every radius independently. What an unbounded attack found counts from its distance on in
            either case.
        unbounded: names of attacks that search for the nearest adversarial image.
    """
    here = (record.eps <= eps) if share else (record.eps == eps)
    free = np.isin(record.attack, list(unbounded)) & (record.distance <= eps)
    return (record.success & (here | (record.attack == CLEAN.attack))) | free


def to_attack(
    record: Record,
    stage: Stage,
    points: NDArray[np.int64],
    share: bool = True,
    unbounded: Collection[str] = UNBOUNDED,
) -> NDArray[np.int64]:
    """Those of ``points`` that ``stage`` has to work on, in their order.

    They are the points not yet broken at its radius; for an unbounded attack without those that it has
    searched at another radius, since it would do the same again.

    Args:
        record: all attempts of the stages before.
    """
    over = record.point[proves(record, stage.eps, share, unbounded)]
    if stage.attack in unbounded:
        over = np.union1d(over, record.point[record.attack == stage.attack])
    return points[~np.isin(points, over)]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What is known of N points.

    Args:
        points: int64 (N,), their ids.
        stages: in the order in which they were run.
        broken_at: for each radius, ascending, int64 (N,): number of the stage that broke the point first, -1
            where it is robust. 0 is the clean stage: misclassified as it is.
    """

    points: NDArray[np.int64]
    stages: tuple[Stage, ...]
    broken_at: dict[float, NDArray[np.int64]]

    @property
    def clean(self) -> NDArray[np.bool_]:
        """bool (N,): classified correctly as they are."""
        return self.broken_at[CLEAN.eps] != 0

    def robust(self, eps: float) -> NDArray[np.bool_]:
        """bool (N,): classified correctly under every attack at ``eps``.

        Raises:
            KeyError: a radius that was not asked for.
        """
        return self.broken_at[eps] < 0

    def interval(self, eps: float) -> Interval:
        """The 95% interval of the accuracy at ``eps``; 0 for clean. ValueError if there is no point."""
        return accuracy_interval(int(self.robust(eps).sum()), len(self.points))

    def broken_by(self, eps: float) -> dict[str, int]:
        """How many points each attack was the first to break at ``eps``, in the order of the stages.

        "clean" counts those that were misclassified as they are. With sharing, what an attack broke at a
        smaller radius counts for it here.
        """
        counts: dict[str, int] = {}
        for number, stage in enumerate(self.stages):
            broken = int((self.broken_at[eps] == number).sum())
            if broken or stage.eps <= eps:
                counts[stage.attack] = counts.get(stage.attack, 0) + broken
        return counts


def derive(
    record: Record,
    points: NDArray[np.int64],
    stages: Sequence[Stage],
    share: bool = True,
    unbounded: Collection[str] = UNBOUNDED,
) -> Verdicts:
    """The verdicts on ``points`` at every radius of ``stages``.

    Args:
        record: every attempt at these points; other points are left aside.
        points: int64 (N,), ids without repetition.
        stages: in the order in which they were run, the first of them ``CLEAN``.
        share, unbounded: see :func:`proves`.

    Raises:
        ValueError: a row of no stage, a point that was not even classified, no clean stage.
    """
    if not stages or stages[0] != CLEAN:
        raise ValueError("the first stage is the clean one")
    record = record.where(np.isin(record.point, points))
    number_of = {stage: number for number, stage in enumerate(stages)}
    try:
        pairs = zip(record.attack.tolist(), record.eps.tolist(), strict=True)
        number = np.array([number_of[Stage(*pair)] for pair in pairs], np.int64)
    except KeyError as error:
        raise ValueError(f"attempts of {error.args[0]}, which is none of the stages") from None
    if len(missing := np.setdiff1d(points, record.point[number == 0])):
        raise ValueError(f"{len(missing)} points without a clean verdict, such as {missing[0]}")
    order = np.argsort(points, kind="stable")
    position = order[np.searchsorted(points, record.point, sorter=order)]
    broken_at = {}
    for eps in sorted({stage.eps for stage in stages}):
        first = np.full(len(points), len(stages), np.int64)
        proof = proves(record, eps, share, unbounded)
        np.minimum.at(first, position[proof], number[proof])
        broken_at[eps] = np.where(first < len(stages), first, -1)
    return Verdicts(points, tuple(stages), broken_at)
