"""The attacked image of every point at every radius, from what each stage kept."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .points import Done
from .verdicts import FREE_OF_EPS


def attacked(
    x: Tensor, points: NDArray[np.int64], found: Iterable[Done], radii: Sequence[float], share: bool = True
) -> dict[float, Tensor]:
    """The nearest adversarial image within each radius, and the image itself where there is none.

    Args:
        x: the images, (n, ...), in the type of the result.
        points: int64 (n,), their ids.
        found: by each stage, in any order; points other than these are left aside.
        radii: in [0, 1] pixel units.
        share: whether what fell at a smaller radius counts, see :func:`easybn.evaluation.verdicts.proves`.

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
            if at != eps and attack not in FREE_OF_EPS and (not share or at > eps):
                continue
            better = (distance <= eps) & (distance < nearest[eps][rows])
            nearest[eps][rows[better]] = distance[better]
            out[eps][torch.as_tensor(rows[better])] = images[torch.as_tensor(better)].to(x)
    return out


def _distances(done: Done, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,) the smallest distance that the record has for each of ``ids``."""
    nearest: dict[int, float] = {}
    for point, distance in zip(done.record.point.tolist(), done.record.distance.tolist(), strict=True):
        nearest[point] = min(distance, nearest.get(point, np.inf))
    return np.array([nearest[point] for point in ids.tolist()])
