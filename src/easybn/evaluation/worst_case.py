"""What all attacks together leave of the points: a point that any of them fooled has fallen, whichever store has it."""

from collections.abc import Sequence

import numpy as np

from .contradictions import ROUNDING
from .record import Record
from .score import Score
from .store import Store
from .verdicts import proves

NAME = "all attacks"


def worst_case(stores: Sequence[Store], norm: str, eps: float) -> Score | None:
    """Accuracy of the points of the largest evaluation at ``eps`` under everything that any of ``stores`` has of them.

    A point has fallen if an adversarial image within ``eps`` was found by any attack, at whatever radius it looked.

    Args:
        stores: of one model on one data set, whose points have the same ids in all; those of another norm are left
            aside.
        norm: "l2" or "linf".
        eps: radius in [0, 1] pixel units.

    Returns:
        A score of the name "all attacks"; None if no store has a whole chunk at that radius.
    """
    alike = [store for store in stores if store.manifest.norm == norm]
    at = [store for store in alike if any(abs(radius - eps) <= ROUNDING for radius in store.manifest.eps)]
    points = max((store.verdicts().points for store in at), key=len, default=np.empty(0, np.int64))
    if not len(points):
        return None
    record = Record.joined(store.record for store in alike)
    fallen = record.point[proves(record, eps + ROUNDING)]
    return Score(NAME, len(points), int((~np.isin(points, fallen)).sum()), norm=norm, eps=eps)
