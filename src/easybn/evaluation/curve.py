"""Robust accuracy at every eps, as far as one evaluation knows it: exact where it attacked, bounds in between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .record import Record

GRID = 64
"""Steps from 0 to the largest radius in which a curve is stored."""


def nearest_known(
    record: Record, points: NDArray[np.int64], robust_at: Mapping[float, NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """float64 (n,): the distance of the nearest adversarial image that is known of each point, infinite without one.

    0 for a point that is misclassified as it is. Whatever found the image counts, at whatever radius it looked: FAB's
    searches for the nearest image, and the successes of all other attacks.

    Args:
        record: every attempt at the points; other points are left aside.
        points: int64 (n,), their ids.
        robust_at: for each radius bool (n,), which points withstood; a point that did not has an image within the
            radius, also where the record lacks it (the ``robustness`` protocol).
    """
    nearest = np.full(len(points), np.inf)
    rows = np.isin(record.point, points) & np.isfinite(record.distance)
    order = np.argsort(points, kind="stable")
    at = order[np.searchsorted(points, record.point[rows], sorter=order)]
    np.minimum.at(nearest, at, record.distance[rows])
    for eps, robust in robust_at.items():
        nearest = np.where(robust, nearest, np.minimum(nearest, eps))
    return nearest


@dataclass(frozen=True, eq=False)
class RobustnessCurve:
    """What is known of robust accuracy from eps 0 to the largest radius that was attacked, and nothing beyond.

    Args:
        norm: "l2" or "linf".
        radii: that were attacked, ascending.
        nearest: float64 (n,), see :func:`nearest_known`.
        withstood: float64 (n,), the largest of ``radii`` at which every attack failed on the point; 0 if none.
    """

    norm: str
    radii: Sequence[float]
    nearest: NDArray[np.float64]
    withstood: NDArray[np.float64]

    @classmethod
    def of(
        cls, norm: str, record: Record, points: NDArray[np.int64], robust_at: Mapping[float, NDArray[np.bool_]]
    ) -> "RobustnessCurve":
        """The curve of an evaluation; arguments as of :func:`nearest_known`.

        Raises:
            ValueError: no points, or no radius.
        """
        if not len(points) or not robust_at:
            raise ValueError("a curve needs points and at least one radius that was attacked")
        withstood = np.max([np.where(robust, eps, 0.0) for eps, robust in robust_at.items()], axis=0)
        return cls(norm, sorted(robust_at), nearest_known(record, points, robust_at), withstood)

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.nearest)

    def most(self, eps: float) -> int:
        """How many points have no known adversarial image within ``eps``: robust accuracy is at most that share.

        At a radius that was attacked this is what its attacks left; fewer than its score says where an attack at a
        larger radius found an image within this one.

        Raises:
            ValueError: beyond the largest radius that was attacked, where nothing is known; or below 0.
        """
        self._check(eps)
        return int((self.nearest > eps).sum())

    def least(self, eps: float) -> int:
        """How many of these withstood every attack at a radius of at least ``eps``: attacks at ``eps`` would fail too.

        Raises:
            ValueError: as of :meth:`most`.
        """
        self._check(eps)
        return int(((self.nearest > eps) & (self.withstood >= eps)).sum())

    def _check(self, eps: float) -> None:
        if not 0 <= eps <= self.radii[-1]:
            raise ValueError(f"nothing was attacked at eps {eps:g}: the curve is known from 0 to {self.radii[-1]:g}")

    def sampled(self, steps: int = GRID) -> dict[str, Any]:
        """The curve as numbers that fit into a row.

        Returns:
            n; attacked: the radii; eps: a grid from 0 to the largest radius with all radii in it; most and least: at
            each of ``eps``. Between two of them ``most`` of the smaller and ``least`` of the larger one are bounds.
        """
        grid = np.union1d(np.linspace(0, self.radii[-1], steps + 1)[:-1], self.radii).tolist()
        bounds = {name: [count(eps) for eps in grid] for name, count in (("most", self.most), ("least", self.least))}
        return {"n": self.n, "attacked": list(self.radii), "eps": grid, **bounds}
