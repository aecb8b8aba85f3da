"""What attacks did to points, one row per attempt: the only thing that is stored. Verdicts are derived from it."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..perturb.eps import format_eps

DTYPES: dict[str, Any] = {
    "point": np.int64,
    "eps": np.float64,
    "attack": np.str_,
    "target": np.int16,
    "restart": np.int16,
    "success": np.bool_,
    "finished": np.bool_,
    "iteration": np.int32,
    "distance": np.float64,
    "margin": np.float64,
    "forwards": np.int32,
    "backwards": np.int32,
    "non_finite": np.int32,
    "zero_gradients": np.int32,
}


class Stage(NamedTuple):
    """One attack at one radius; ("clean", 0.0) is the classification of the images as they are.

    Args:
        attack: name, such as "apgd-ce".
        eps: radius in [0, 1] pixel units.
    """

    attack: str
    eps: float

    def __str__(self) -> str:
        return self.attack if self == CLEAN else f"{self.attack} {format_eps(self.eps, None)}"


CLEAN = Stage("clean", 0.0)


def unanswered_points(record: "Record") -> int:
    """How many points count as misclassified under attack because the model's logits are NaN or infinite there.

    The margin tells: it is NaN then, or -inf where the true class's logit is +inf.
    """
    silent = record.success & (np.isnan(record.margin) | np.isneginf(record.margin)) & (record.attack != CLEAN.attack)
    return len(np.unique(record.point[silent]))


@dataclass(frozen=True, eq=False)
class Record:
    """R attempts at points, as columns of shape (R,).

    Args:
        point: int64, id of the point.
        eps: float64, radius in [0, 1] pixel units; 0 for clean.
        attack: text, such as "apgd-ce".
        target: int16, rank of the target class; 0 where there was none.
        restart: int16, from 0.
        success: bool, misclassified within ``eps``, verified on the original model.
        finished: bool, ran to its end or succeeded; False where it was given up because another attempt at the same
            point had succeeded.
        iteration: int32, at which it succeeded or ended.
        distance: float64, of the adversarial image found, infinite if there is none. An attempt of a
            minimum-distance attack may find one beyond ``eps``.
        margin: float64, largest other logit minus the true one at the kept image, on the original model. Where no
            image was found, the largest margin that the attempt has seen, 0 at most, of attacks that keep it (preset
            fast): from it one sees how near they came. NaN if unknown.
        forwards: int32, images that went forward; backwards: int32, and backward.
        non_finite: int32, gradients that were not finite; zero_gradients: int32, those that were zero throughout.

    Raises:
        ValueError: columns of different lengths, or values that their type cannot hold.
    """

    point: NDArray[np.int64]
    eps: NDArray[np.float64]
    attack: NDArray[np.str_]
    target: NDArray[np.int16]
    restart: NDArray[np.int16]
    success: NDArray[np.bool_]
    finished: NDArray[np.bool_]
    iteration: NDArray[np.int32]
    distance: NDArray[np.float64]
    margin: NDArray[np.float64]
    forwards: NDArray[np.int32]
    backwards: NDArray[np.int32]
    non_finite: NDArray[np.int32]
    zero_gradients: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            given = np.asarray(getattr(self, name))
            with np.errstate(invalid="ignore"):  # NaN as an integer: seen below
                column = given.astype(dtype)
            if column.shape != (len(self.point),):
                raise ValueError(f"column {name} has shape {column.shape} for {len(self.point)} rows")
            if column.dtype.kind in "ib" and (column != given).any():
                raise ValueError(f"column {name} has values that {column.dtype} cannot hold")
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.point)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name, in their order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def where(self, rows: NDArray[Any]) -> "Record":
        """The rows that a mask (bool, (R,)) or positions (integers) choose."""
        return Record(**{name: column[rows] for name, column in self.columns.items()})

    def sorted(self) -> "Record":
        """In the order of point, target and restart, so that it does not depend on which attempt ended first."""
        return self.where(np.lexsort((self.restart, self.target, self.point)))

    def nearest(self, points: ArrayLike) -> NDArray[np.float64]:
        """For each of ``points`` (ids, (n,)) the distance of the nearest adversarial image that was found.

        0 where the image is misclassified as it is, infinite where nothing was found. FAB alone looks for the nearest.

        Args:
            points: int64 (n,), in any order, each once.
        """
        ids = np.asarray(points, np.int64)
        order = np.argsort(ids, kind="stable")
        known = np.isin(self.point, ids)
        nearest = np.full(len(ids), np.inf)
        position = order[np.searchsorted(ids, self.point[known], sorter=order)]
        np.minimum.at(nearest, position, self.distance[known])
        return nearest

    @classmethod
    def of(
        cls,
        stage: Stage,
        point: ArrayLike,
        *,
        success: ArrayLike,
        distance: ArrayLike,
        target: ArrayLike = 0,
        restart: ArrayLike = 0,
        finished: ArrayLike = True,
        iteration: ArrayLike = 0,
        margin: ArrayLike = np.nan,
        forwards: ArrayLike = 0,
        backwards: ArrayLike = 0,
        non_finite: ArrayLike = 0,
        zero_gradients: ArrayLike = 0,
    ) -> "Record":
        """The rows of one stage; a single number is the value of all rows."""
        given = dict(locals())
        ids = np.asarray(point, np.int64).reshape(-1)
        given |= {"attack": stage.attack, "eps": stage.eps}
        return cls(**{name: np.broadcast_to(np.asarray(given[name]), ids.shape) for name in DTYPES})

    @classmethod
    def joined(cls, records: Iterable["Record"]) -> "Record":
        """All rows of several records, one after the other; of none, a record without rows."""
        parts = [record.columns for record in records] or [Record.of(CLEAN, [], success=[], distance=[]).columns]
        return cls(**{name: np.concatenate([part[name] for part in parts]) for name in DTYPES})


# Validation of a stage: without it a point might count as robust for no reason.


def check_stage(record: Record, stage: Stage, points: NDArray[np.int64]) -> None:
    """See that a stage attacked all it had to and nothing else, and gave up no point without a success.

    Args:
        record: the rows of the stage.
        stage: which it is.
        points: int64 (n,), ids of the points that it had to attack.

    Raises:
        ValueError: what is wrong, with an example.
    """

    def none_of(wrong: NDArray[Any], what: str) -> None:
        if len(wrong):
            raise ValueError(f"{stage}: {what}: {len(wrong)}, such as point {wrong[0]}")

    if len(record) and {*zip(record.attack.tolist(), record.eps.tolist(), strict=True)} != {tuple(stage)}:
        raise ValueError(f"{stage}: rows of another stage")
    none_of(np.setdiff1d(record.point, points), "attempts at points that were not to be attacked")
    none_of(np.setdiff1d(points, record.point), "points without an attempt")
    none_of(record.point[record.success & ~np.isfinite(record.distance)], "successes at no distance")
    near = ~record.success & (record.distance <= record.eps)
    none_of(record.point[near], "points with an adversarial image within eps and without success")
    given_up = np.setdiff1d(record.point[~record.finished], record.point[record.success])
    none_of(given_up, "points given up without success")
