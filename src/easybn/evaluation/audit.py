"""What an audit of the preset fast tells: how many of the points that fast left AutoAttack standard breaks.

``standard`` attacks all *suspicious* survivors and a random sample of the others (:mod:`.auditing`). Those that it
breaks are broken; how many of all the others it would break has an exact interval, since they are finitely many.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..perturb.eps import format_eps
from ..stats import Counts, Interval, accuracy_interval, count_interval, sample_size
from .config import SAMPLE

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Audit:
    """What an audit found at one radius.

    Args:
        survivors: points that fast did not break.
        suspicious: those of them that are; all of these are audited.
        drawn: of the others, how many were drawn at random to be audited.
        broke_suspicious, broke_drawn: how many of either ``standard`` broke.
        broke: survivors that are broken by now, by the attack that broke them; more than the two numbers before where
            the audit of a smaller radius, or an earlier one of other points, broke further ones.

    Raises:
        ValueError: counts that make no sense.
    """

    survivors: int
    suspicious: int = 0
    drawn: int = 0
    broke_suspicious: int = 0
    broke_drawn: int = 0
    broke: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        sensible = (
            0 <= self.suspicious <= self.survivors and 0 <= self.drawn <= self.others
            and 0 <= self.broke_suspicious <= self.suspicious and 0 <= self.broke_drawn <= self.drawn
            and self.broke_suspicious + self.broke_drawn <= self.broken <= self.survivors
        )  # fmt: skip
        if not sensible:
            raise ValueError(f"the counts of an audit contradict each other: {self}")

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Audit | None":
        """The ``audit`` of a row of scores; None if it has none."""
        return None if row.get("audit") is None else cls(**row["audit"])

    @property
    def audited(self) -> int:
        """Points that ``standard`` attacked for this audit."""
        return self.suspicious + self.drawn

    @property
    def others(self) -> int:
        """Survivors that are not suspicious."""
        return self.survivors - self.suspicious

    @property
    def broken(self) -> int:
        """Survivors that are broken by now."""
        return sum(self.broke.values())

    @property
    def whole(self) -> bool:
        """Whether every survivor was audited, so that nothing is estimated."""
        return self.audited == self.survivors

    @property
    def falling(self) -> float:
        """Estimate of how many of the survivors ``standard`` breaks: of the others as many as in the sample."""
        share = self.broke_drawn / self.drawn if self.drawn else 0.0
        return max(self.broke_suspicious + share * self.others, float(self.broken))

    @cached_property
    def falling_interval(self) -> Counts:
        """The exact 95% interval of :attr:`falling`, see :func:`~easybn.stats.count_interval`."""
        return self.falling_between(CONFIDENCE)

    def falling_between(self, confidence: float) -> Counts:
        """An interval of that confidence; a single number where every survivor was audited."""
        sampled = count_interval(self.broke_drawn, self.drawn, self.others, confidence)
        low, high = (max(self.broke_suspicious + end, self.broken) for end in sampled)
        return Counts(low, high)

    def accuracy(self, n: int) -> float:
        """Estimate of the accuracy on the n points under fast and ``standard``, in [0, 1]."""
        return (self.survivors - self.falling) / n

    def accuracy_interval(self, n: int) -> Interval:
        """Its exact 95% interval: about these n points, whose fast verdicts are known."""
        low, high = self.falling_interval
        return Interval((self.survivors - high) / n, (self.survivors - low) / n)

    def population_interval(self, n: int) -> Interval:
        """The 95% interval of the accuracy under fast and ``standard`` on all points that the n may be drawn from.

        Two things are random: which points were drawn, and which survivors were audited. Each gets half of the 5%
        (Bonferroni): the end points are those of 97.5% intervals (Wilson) of the two ends of the audit's 97.5%
        interval. Where every survivor was audited, the first alone has the 5%.
        """
        confidence = CONFIDENCE if self.whole else (1 + CONFIDENCE) / 2
        low, high = self.falling_between(confidence)
        ends = [accuracy_interval(self.survivors - falling, n, confidence) for falling in (high, low)]
        return Interval(ends[0].low, ends[1].high)


def sample_of(others: int, n: int, audit: int | None, width: float | None) -> int:
    """How many survivors are drawn.

    Args:
        others: survivors that are not suspicious.
        n: points in all.
        audit: the number that was asked for; None for ``SAMPLE``, unless a width is given.
        width: of the 95% interval of the accuracy on the n points, from end to end, if the audit breaks none.
    """
    if width is None:
        return min(others, SAMPLE if audit is None else audit)
    return min(others, max(1, sample_size(others, int(width * n + 1e-9), CONFIDENCE)))


# The audit in words.


def audit_words(audit: Audit, n: int, norm: str | None, eps: float) -> str:
    """What was audited, what it found and what that says of all n points, in one line."""
    begin, left = f"audit at {norm} {format_eps(eps, norm)}: ", f"{audit.survivors:,}"
    if not audit.survivors:
        return f"{begin}fast left no point"
    by = ", ".join(f"{name} {count:,}" for name, count in audit.broke.items() if count)
    begin += f"AutoAttack standard broke {audit.broken:,} ({by})" if audit.broken else "AutoAttack standard broke none"
    if audit.whole:
        return f"{begin} of all {left} points that fast left"
    which = (
        f"({audit.suspicious:,} suspicious, {audit.drawn:,} drawn at random)" if audit.suspicious else "drawn at random"
    )
    begin += f" of {audit.audited:,} points {which} of the {left} that fast left: of all {left} "
    (low, high), (least, most) = audit.falling_interval, audit.accuracy_interval(n)
    ends, last = f"{100 * least:.1f} to {100 * most:.1f}", f"of the {n:,} attacked withstand both (95%)"
    if not audit.broken:
        return f"{begin}at most {high:,} would fall to it, so that {ends}% {last}"
    estimate = f"{100 * audit.accuracy(n):.1f}%"
    return (
        f"{begin}about {audit.falling:.0f} ({low:,} to {high:,}) would fall to it, so that {estimate} ({ends}) {last}"
    )
