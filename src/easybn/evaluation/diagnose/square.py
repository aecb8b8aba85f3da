"""Square, which sees no gradient, beating attacks that do."""

import numpy as np

from ..record import CLEAN
from .finding import Finding
from .subject import Subject

DROP = 0.002
"""Loss of robust accuracy by Square that AutoAttack flags (checks.py, check_square_sr)."""
POINTS = 2
"""And at least that many points: a single one may be luck."""


def square(subject: Subject) -> list[Finding]:
    """What Square broke at each eps of the points that white-box attacks had tried there in vain."""
    record = subject.record
    if record is None:
        return []
    points, worst, at = len(np.unique(record.point)), -1, 0.0
    for eps in np.unique(record.eps[record.attack == "square"]).tolist():
        here = record.where((record.eps == eps) & (record.attack != CLEAN.attack))
        black = here.attack == "square"
        standing = np.setdiff1d(here.point[~black], here.point[~black & here.fell])
        broken = len(np.intersect1d(here.point[black & here.fell], standing))
        if len(standing) or (~black).any():
            worst, at = max((worst, at), (broken, eps))
    if worst < 0:  # no Square, or nothing to compare it with
        return []
    size = f"{worst} points of {points:,} ({worst / points:.2%}, bound {DROP:.1%} and {POINTS} points) at eps {at:.4g}"
    if worst < POINTS or worst <= DROP * points:
        return [Finding("square", "ok", "Square adds little to the white-box attacks", size)]
    return [
        Finding(
            "square", "warning", "Square broke what the white-box attacks could not", size,
            "an attack that sees the gradient should do better: gradients are masked, and the figure is an upper bound",
            "look at zero gradients and transfer; run Square longer, or an adaptive attack",
        )
    ]  # fmt: skip
