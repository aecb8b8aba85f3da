"""Figures that cannot all be true of one model: a stronger attack that leaves more points standing than a weaker."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..perturb.eps import format_eps
from .score import Score

STRENGTH = {("pgd", "robustness"): 1, ("pgd", "strong"): 2, ("autoattack", "standard"): 3, ("autoattack", "plus"): 3}
"""AutoAttack takes the worst of attacks that include 100 steps of APGD; ``strong`` counts every misclassified iterate
of two losses, ``robustness`` that of largest cross-entropy."""
ROUNDING = 1e-9
"""Radii such as 8/255 that come by way of text are the same up to this."""


@dataclass(frozen=True)
class Contradiction:
    """One score that is above another one which it cannot exceed.

    Args:
        higher: of the stronger attack or the larger eps; lower: the bound that it breaks.
        allowed: difference of the accuracies that their 95% intervals allow.
    """

    higher: Score
    lower: Score
    allowed: float

    @property
    def excess(self) -> float:
        """Difference of the two accuracies, in [0, 1]."""
        return self.higher.accuracy - self.lower.accuracy

    def __str__(self) -> str:
        return (
            f"{called(self.higher)} is {100 * self.excess:.2f} points above {called(self.lower)}, which it cannot "
            f"exceed ({100 * self.higher.accuracy:.2f} and {100 * self.lower.accuracy:.2f}, {100 * self.allowed:.2f} "
            "allowed for chance)"
        )


def contradictions(scores: Sequence[Score]) -> list[Contradiction]:
    """For each score that exceeds what bounds it by more than chance, the bound that it exceeds by most.

    A score is bounded by clean accuracy, by its own attack at a smaller eps, and by a weaker attack (``STRENGTH``)
    in its norm at the same or a smaller eps. The difference is held against the root of the sum of the squares of
    the half-widths of the 95% intervals, as if points were drawn anew for each; that is generous where they are
    the same.

    Args:
        scores: of one model.
    """
    found = []
    for higher in scores:
        broken = [
            Contradiction(higher, lower, chance(higher, lower)) for lower in scores if bounds(lower, higher)
        ]  # fmt: skip
        broken = [each for each in broken if each.excess > each.allowed]
        if broken:
            found.append(max(broken, key=lambda each: each.excess))
    return found


def bounds(lower: Score, higher: Score) -> bool:
    """Whether ``higher`` cannot truly exceed ``lower``: everything that fools the model there fools it here."""
    if lower is higher or higher.eps is None:
        return False
    if lower.eps is None:
        return True
    if lower.norm != higher.norm or lower.eps > higher.eps + ROUNDING:
        return False
    if lower.attack == higher.attack == "pgd" and higher.steps < lower.steps:
        return False
    weak, strong = ((score.attack, score.protocol) for score in (lower, higher))
    if weak == strong:
        return lower.eps < higher.eps - ROUNDING
    return weak in STRENGTH and strong in STRENGTH and STRENGTH[weak] < STRENGTH[strong]


def chance(a: Score, b: Score) -> float:
    """The difference between two accuracies that chance explains."""
    return math.hypot(a.interval.half_width, b.interval.half_width)


def called(score: Score) -> str:
    """A score by name, such as "pgd (strong) l2 0.5"."""
    if score.eps is None:
        return score.attack
    protocol = f" ({score.protocol})" if score.protocol else ""
    return f"{score.attack}{protocol} {score.norm} {format_eps(score.eps, score.norm)}"
