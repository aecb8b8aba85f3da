"""What an evaluation found: a row of results, all that it knows of the points, and several evaluations together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..attacks.registry import GRADIENT_FREE
from ..perturb.eps import format_eps
from ..stats import Interval, accuracy_interval
from .audit import Audit, audit_words
from .config import FAST
from .curve import RobustnessCurve
from .record import Record
from .store import Store
from .verdicts import proves

if TYPE_CHECKING:
    from .diagnostics import Finding
ROUNDING = 1e-9
"""Radii such as 8/255 that come by way of text are the same up to this."""


@dataclass(frozen=True)
class Score:
    """How many of n points were classified correctly, and under what.

    Args:
        attack: "clean", "pgd", "autoattack", "fast", or the names of a list of attacks, such as "apgd-ce+square".
        n: number of points.
        correct: number of points that were classified correctly (under the attack, if there was one, and its audit).
        protocol: of pgd "strong" or "robustness", of autoattack the preset; else None.
        norm: "l2" or "linf"; None for clean.
        eps: radius in [0, 1] pixel units; None for clean.
        steps: gradient steps an image at most, for each loss.
        step_size: length of a step in [0, 1] pixel units; None for clean.
        random_start: whether the attack started from a random point of the ball.
        seed: of the random start; None where nothing was random.
        batch_size: images a batch at most. The ``robustness`` protocol's result depends on it.
        max_perturbation: largest distance, in ``norm``, of an attacked image from its original.
        non_finite: gradient steps that were no step because the gradient was not finite.
        broke: how many points each attack was the first to break, in the order of the attacks; "clean" counts
            those that were misclassified as they are, "audit" those that only the audit of fast broke.
        audit: of fast, what it found; None if there was none, or not yet.
    """

    attack: str
    n: int
    correct: int
    protocol: str | None = None
    norm: str | None = None
    eps: float | None = None
    steps: int = 0
    step_size: float | None = None
    random_start: bool = False
    seed: int | None = None
    batch_size: int | None = None
    max_perturbation: float = 0.0
    non_finite: int = 0
    broke: Mapping[str, int] = field(default_factory=dict, hash=False)
    audit: Audit | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n < 1:
            raise ValueError(f"correct must be in 0 .. n and n at least 1, got {self.correct} of {self.n}")

    @property
    def accuracy(self) -> float:
        """correct / n, in [0, 1]; of fast an upper bound, see :attr:`audited_accuracy`."""
        return self.correct / self.n

    @property
    def interval(self) -> Interval:
        """The 95% interval of the accuracy; with an audit, of that under fast and ``standard``."""
        if self.audit is not None:
            return self.audit.population_interval(self.n)
        return accuracy_interval(self.correct, self.n)

    @property
    def audited_accuracy(self) -> float | None:
        """Estimate of the accuracy under fast and ``standard`` on these points; None without an audit."""
        return None if self.audit is None else self.audit.accuracy(self.n)

    def to_dict(self) -> dict[str, Any]:
        """The fields, as values that JSON knows."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> "Score":
        """The score that ``to_dict`` gave, also by way of JSON.

        Raises:
            ValueError: a field that a score does not have, or counts that make no sense.
        """
        if unknown := set(row) - {each.name for each in fields(cls)}:
            raise ValueError(f"a score has no field {', '.join(map(repr, sorted(unknown)))}")
        return cls(**{**row, "audit": Audit.of_row(row)})


def display_name(score: Score) -> str:
    """A score in words, such as "pgd (strong) l2 0.5"."""
    if score.eps is None:
        return score.attack
    protocol = f" ({score.protocol})" if score.protocol else ""
    return f"{score.attack}{protocol} {score.norm} {format_eps(score.eps, score.norm)}"


def attack_words(score: Score) -> str:
    """The attack of a score as a reader knows it: ``AutoAttack standard``, ``PGD strong``, ``apgd-ce and square``."""
    if score.attack in ("autoattack", "pgd"):
        return " ".join(filter(None, ({"autoattack": "AutoAttack", "pgd": "PGD"}[score.attack], score.protocol)))
    *names, last = score.attack.split("+")
    return f"{', '.join(names)} and {last}" if names else last


def points_in_words(n: int) -> str:
    """Such as "1 point" and "1,000 points"."""
    return f"{n:,} point{'' if n == 1 else 's'}"


def headline(score: Score, total: int | None = None) -> str:
    """A score in one line, with all that it needs to be quoted.

    ``robust accuracy at linf 8/255: 59.8% (95%: 52.9 to 66.4), 200 of 10,000 points, AutoAttack standard``
    ``robust accuracy at linf 8/255: at most 59.5%, audited 59.5% (95%: 46.6 to 67.0), 200 of 10,000 points, fast, 40 of
    119 survivors audited by AutoAttack standard: 0 broken``

    Args:
        total: of how many points the score's were chosen; left out if they are all.
    """
    low, high = (100 * end for end in score.interval)
    points = f"{score.n:,} of {total:,} points" if total is not None and total > score.n else points_in_words(score.n)
    what = "clean accuracy" if score.eps is None else "robust accuracy"
    at = "" if score.eps is None else f" at {score.norm} {format_eps(score.eps, score.norm)}"
    attack = "" if score.eps is None else f", {attack_words(score)}"
    figure = f"{100 * score.accuracy:.1f}%"
    if (audit := score.audit) is not None:
        share = "all" if audit.whole else f"{audit.audited:,} of"
        attack += f", {share} {audit.survivors:,} survivors audited by AutoAttack standard: {audit.broken:,} broken"
        if not audit.whole:
            figure = f"at most {figure}, audited {100 * audit.accuracy(score.n):.1f}%"
    elif score.attack == FAST:
        figure, attack = f"at most {figure}", f"{attack}, not audited"
    elif {*score.attack.split("+")} <= {*GRADIENT_FREE}:
        figure, attack = f"at most {figure}", f"{attack} (gradient-free: not comparable with AutoAttack)"
    return f"{what}{at}: {figure} (95%: {low:.1f} to {high:.1f}), {points}{attack}"


def audit_line(score: Score) -> str | None:
    """What the audit of a score found and what that says, in one line; None without one."""
    return None if score.audit is None else audit_words(score.audit, score.n, score.norm, score.eps or 0.0)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What :func:`easybn.evaluate` found on n points: all that were given, or those whose chunks are done.

    Args:
        clean: bool (n,), classified correctly as they are.
        robust_at: for each eps, ascending, bool (n,): classified correctly under attack. A point that is
            wrong from the start is not robust.
        scores: a row for clean and one for each eps.
        notes: what a reader should know about the model or the attack, a sentence each; the warnings of ``findings``
            are among them.
        images_at: for each eps, (n, ...) such that classifying them gives ``robust_at`` again; empty unless
            images were asked for. Where nothing was found they are the images themselves.
        record: every attempt at every point. Empty under the ``robustness`` protocol.
        points: int64 (n,), the ids of the points, in the order given; ``point`` of the record is one of them.
        asked: how many points were given.
        findings: of the diagnosis, warnings first; empty if none was made. ``str`` of each is a line.
    """

    clean: Tensor
    robust_at: dict[float, Tensor]
    scores: list[Score]
    notes: list[str] = field(default_factory=list)
    images_at: dict[float, Tensor] = field(default_factory=dict)
    record: Record = field(default_factory=lambda: Record.joined([]))
    points: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    asked: int = 0
    findings: Sequence["Finding"] = ()

    def diagnosed(self, findings: "Sequence[Finding]") -> "Evaluation":
        """The same with the findings of a diagnosis, and with each warning among the notes."""
        return replace(self, notes=[*self.notes, *_warnings(findings)], findings=tuple(findings))

    @property
    def remarks(self) -> list[str]:
        """The notes that no finding says too, as a warning or with what it means."""
        said = {": ".join(filter(None, (each.what, each.how_much))) for each in self.findings}
        return [note for note in self.notes if note not in said.union(_warnings(self.findings))]

    def __repr__(self) -> str:
        """Robust accuracy at each eps (and its audit), clean accuracy, then notes and warnings, a line each."""
        clean, *attacked = self.scores
        told = [line for score in attacked for line in (headline(score, self.asked), audit_line(score)) if line]
        lines = [*told, headline(clean, self.asked)]
        lines += [f"note     {remark}" for remark in self.remarks]
        return "\n".join([*lines, *(str(finding) for finding in self.findings if not finding.fine)])

    @property
    def complete(self) -> bool:
        """Whether every point that was given has its verdict."""
        return len(self.clean) == self.asked

    @property
    def robust(self) -> Tensor:
        """bool (n,): classified correctly under attack at the largest eps; ValueError if there was no attack."""
        if not self.robust_at:
            raise ValueError("no attack was run, so that nothing is known of robustness")
        return self.robust_at[max(self.robust_at)]

    @property
    def audits(self) -> dict[float, Audit]:
        """By eps, what the audit of fast found; empty if there was none, or not yet."""
        return {score.eps: score.audit for score in self.scores if score.eps is not None and score.audit is not None}

    @property
    def curve(self) -> RobustnessCurve:
        """Bounds of robust accuracy at every eps up to the largest; ValueError if there was no attack."""
        robust_at = {eps: robust.cpu().numpy() for eps, robust in self.robust_at.items()}
        return RobustnessCurve.of(str(self.scores[-1].norm), self.record, self.points.cpu().numpy(), robust_at)

    @property
    def images(self) -> Tensor:
        """(n, ...) attacked images at the largest eps; ValueError if they were not asked for."""
        if not self.images_at:
            raise ValueError("no images were kept: evaluate(..., keep_images=True)")
        return self.images_at[max(self.images_at)]

    @property
    def clean_accuracy(self) -> float:
        """In [0, 1]."""
        return self.scores[0].accuracy

    @property
    def robust_accuracy(self) -> float:
        """In [0, 1], over all n points, at the largest eps; of fast an upper bound."""
        return int(self.robust.sum()) / len(self.robust)

    @property
    def interval(self) -> Interval:
        """The 95% interval of ``robust_accuracy``, or of ``clean_accuracy`` if there was no attack."""
        return self.scores[-1].interval


def _warnings(findings: "Sequence[Finding]") -> list[str]:
    # "as found" repeats what is a note already
    return [f"warning: {each.line}" for each in findings if each.severity == "warning" and each.name != "as found"]


# Robustness under all attacks together: a point that any of them broke is not robust, whichever store has it.

ALL_ATTACKS = "all attacks"


def worst_case(stores: Sequence[Store], norm: str, eps: float) -> Score | None:
    """Accuracy on the points of the largest evaluation at ``eps``, under the attacks of all ``stores`` together.

    A point is broken if an adversarial image within ``eps`` was found by any attack, at whatever radius it looked.

    Args:
        stores: of one model on one data set, whose points have the same ids in all; those of another norm are left
            aside.
        norm: "l2" or "linf".
        eps: radius in [0, 1] pixel units.

    Returns:
        A score with the attack "all attacks"; None if no store has a finished chunk at that radius.
    """
    alike = [store for store in stores if store.manifest.norm == norm]
    at = [store for store in alike if any(abs(radius - eps) <= ROUNDING for radius in store.manifest.eps)]
    points = max((store.verdicts().points for store in at), key=len, default=np.empty(0, np.int64))
    if not len(points):
        return None
    record = Record.joined(store.record for store in alike)
    unbounded = frozenset[str]().union(*(store.manifest.unbounded for store in alike))
    broken = record.point[proves(record, eps + ROUNDING, unbounded=unbounded)]
    return Score(ALL_ATTACKS, len(points), int((~np.isin(points, broken)).sum()), norm=norm, eps=eps)


# Figures that cannot all be true of one model: a stronger attack that breaks fewer points than a weaker one.

STRENGTH: dict[tuple[str, str | None], int] = {
    ("pgd", "robustness"): 1, ("pgd", "strong"): 2, (FAST, None): 3, ("autoattack", "standard"): 4,
    ("autoattack", "plus"): 4,
}  # fmt: skip
"""AutoAttack takes the worst of attacks that include 100 steps of APGD; fast is made to break nearly as much, and what
its audit broke counts; ``strong`` counts every misclassified iterate of two losses, ``robustness`` that of largest
cross-entropy."""


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
        higher, lower = 100 * self.higher.accuracy, 100 * self.lower.accuracy
        return (
            f"{display_name(self.higher)} is {100 * self.excess:.2f} points above {display_name(self.lower)}, which "
            f"it cannot exceed ({higher:.2f} and {lower:.2f}, {100 * self.allowed:.2f} allowed for chance)"
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
