"""When a claim holds: by the 95% interval of a paired difference, never by the mean alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...evaluation.over_seeds import PairedT
from ..over_seeds.comparison import McNemar

Verdict = Literal["holds", "does not hold", "undecided at this scale", "not measured"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
UNDECIDED: Verdict = "undecided at this scale"
NOT_MEASURED: Verdict = "not measured"
NEGLIGIBLE = 0.0005
"""0.05 points of a percent: the smallest gain in clean accuracy that the paper reports."""

RULES = (
    "A comparison is the difference, paired by seed, of what the claim calls better and what it calls worse, with the "
    "95% interval of its mean over seeds (Student). It holds if the interval lies above 0 and reaches beyond a "
    "negligible margin. It does not hold if the interval ends at or below that margin: on the other side, or any gain "
    "is negligible. Otherwise, and with a single seed, it is undecided at this scale. The margin is 0.05 points, the "
    "smallest gain that the paper reports (C1: 10 points, since it says 'drastically'; C6: none). A claim holds if all "
    "of its comparisons hold, and does not hold if one of them does not; C1, for which the paper states no settings, "
    "holds if any of the settings shows it, and does not hold if none does."
)


@dataclass(frozen=True)
class Evidence:
    """One comparison.

    Args:
        what: what is subtracted from what, where.
        unit: of the difference: "points" of a percent, or "" for a plain number.
        test: of the differences, positive where the claim says so; None if nothing was measured.
        verdict: of this comparison; "not measured" without a test; None for a control, which decides nothing.
        why: why nothing is decided, or what else to know; a phrase.
        points: the same over points.
        about: the recipe it is about, for its colour.
    """

    what: str
    unit: str
    test: PairedT | None
    verdict: Verdict | None
    why: str = ""
    points: McNemar | None = None
    about: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """In the unit shown; None if there is none."""
        if self.test is None or self.test.half_width is None:
            return None
        scale = 100 if self.unit == "points" else 1
        return scale * (self.test.mean - self.test.half_width), scale * (self.test.mean + self.test.half_width)


def judged(test: PairedT | None, margin: float = NEGLIGIBLE, saturated: bool = False) -> tuple[Verdict, str]:
    """The verdict of one comparison, and why it is undecided, or what the interval does not say.

    Args:
        test: None if nothing was measured.
        margin: gains up to it are negligible; in the unit of the test.
        saturated: both are at 0% or both at 100%, so that no difference could show.
    """
    if test is None:
        return NOT_MEASURED, ""
    if saturated:
        return UNDECIDED, "both at the end of the scale"
    if test.half_width is None:
        return UNDECIDED, "one seed" if test.seeds == 1 else "the same difference at all seeds"
    low, high = test.mean - test.half_width, test.mean + test.half_width
    if high <= margin:
        return FAILS, "a gain, but a negligible one" if low > 0 else ""
    return (HOLDS, "") if low > 0 else (UNDECIDED, "")


def together(verdicts: Sequence[Verdict], some: bool = False) -> Verdict:
    """Of a claim: all of its comparisons, or with ``some`` any of them, must hold; one not measured decides nothing."""
    if not set(verdicts) - {NOT_MEASURED}:
        return NOT_MEASURED
    first, last = (HOLDS, FAILS) if some else (FAILS, HOLDS)
    if first in verdicts:
        return first
    return UNDECIDED if {UNDECIDED, NOT_MEASURED} & set(verdicts) else last
