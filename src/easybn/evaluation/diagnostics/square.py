"""Square, which sees no gradient, breaking what gradient attacks did not: had they weak starts, or is it masking?"""

import numpy as np
import torch
from numpy.typing import NDArray

from ...attacks.momentum_pgd import MomentumPGD
from ...attacks.registry import BALLS
from ...attacks.runner import AttackRunner
from ..record import CLEAN, Record
from .subject import DROP, FEW_POINTS, Finding, Subject, share

TRIED = 16
"""Points that are attacked again, at most. They cost less than four robust points cost AutoAttack standard."""
ENOUGH = 0.5
"""Share of them from which on better starts explain what Square found."""


def square(subject: Subject) -> list[Finding]:
    """How many points Square broke at each eps that the white-box attacks there could not break, and why.

    Some of them are attacked again, by PGD from the best of random windows as Square makes them (the second attack of
    preset fast). Where that succeeds, gradients are good, and the other attacks began in the wrong place.
    """
    if subject.record is None or (found := _most_broken(subject.record)) is None:
        return []
    points, eps = found
    n = len(np.unique(subject.record.point))
    bound = f"bound {DROP:.1%} and {FEW_POINTS} points"
    size = f"{len(points)} points of {n:,} ({len(points) / n:.2%}, {bound}) at eps {eps:.4g}"
    if len(points) < FEW_POINTS or len(points) <= DROP * n:
        return [Finding("square", "ok", "Square adds little to the white-box attacks", size)]
    what = "Square broke what the white-box attacks could not"
    tried, broken = _from_windows(subject, points, eps)
    if tried:
        size += f"; PGD from windows breaks {share(broken, tried)} of these"
    if tried and broken >= ENOUGH * tried:
        return [
            Finding(
                "weak starts", "warning", what, size,
                "from better starts gradients lead there: those of the white-box attacks were weak, and the figure is "
                "an upper bound",
                "attack by attacks='fast' (--attacks fast) too, which starts there, and count what either breaks",
            )
        ]  # fmt: skip
    why = "an attack that sees the gradient should do better"
    if tried:
        why += ", and from better starts it does not either"
    return [
        Finding(
            "square", "warning", what, size, f"{why}: gradients are masked, and the figure is an upper bound",
            "look at zero gradients and transfer; run Square longer, or an adaptive attack",
        )
    ]  # fmt: skip


def _most_broken(record: Record) -> tuple[NDArray[np.int64], float] | None:
    """The points that Square alone broke, at the eps with most of them; None without Square or anything beside it."""
    found: tuple[NDArray[np.int64], float] | None = None
    for eps in np.unique(record.eps[record.attack == "square"]).tolist():
        here = record.where((record.eps == eps) & (record.attack != CLEAN.attack))
        black = here.attack == "square"
        robust = np.setdiff1d(here.point[~black], here.point[~black & here.success])
        broken = np.intersect1d(here.point[black & here.success], robust)
        if (len(robust) or (~black).any()) and (found is None or len(broken) > len(found[0])):
            found = broken, eps
    return found


def _from_windows(subject: Subject, points: NDArray[np.int64], eps: float) -> tuple[int, int]:
    """How many of ``points`` were attacked from windows, and how many of these broke at a step along a gradient.

    A start that is adversarial itself says nothing of gradients. None are attacked if it is not known which image is
    whose (no evaluation), or the model has no gradient.
    """
    if subject.evaluation is None or subject.ready.call.no_gradient:
        return 0, 0
    ids = subject.evaluation.points.cpu()[subject.rows]
    rows = torch.as_tensor(np.isin(ids.numpy(), points)).nonzero()[:TRIED, 0]
    y = subject.y[rows]
    others = subject.logits[rows].double().scatter(1, y[:, None], torch.inf)
    attack = MomentumPGD(BALLS[subject.norm](eps), **MomentumPGD.variants["momentum-pgd"])
    runner = AttackRunner(
        subject.ready, attack, subject.x[rows.to(subject.x.device)], y, ids[rows],
        others.argsort(1, descending=True)[:, 1:], batch_size=subject.batch_size,
    )  # fmt: skip
    result = runner.run()
    by_gradient = result.success(eps) & (result.columns["iteration"] % (attack.iterations + 1) > 0)
    return len(rows), int(by_gradient.sum())
