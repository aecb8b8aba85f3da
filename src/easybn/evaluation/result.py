"""What an evaluation found."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .contradictions import called
from .interval import Interval
from .record import Record
from .score import Score

if TYPE_CHECKING:
    from .diagnose import Finding


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What :func:`easybn.evaluate` found on n points: all that were given, or those whose chunks are whole.

    Args:
        clean: bool (n,), classified correctly as they are.
        robust_at: for each eps, ascending, bool (n,): classified correctly under attack. A point that is
            wrong from the start is not robust.
        scores: a row for clean and one for each eps.
        notes: what a reader should know about the model or the attack, a sentence each; the warnings of ``findings``
            are among them.
        images_at: for each eps, (n, ...) such that classifying them gives ``robust_at`` again; empty unless
            images were asked for. Where nothing was found they are the images themselves.
        record: every try at every point. Empty under the ``robustness`` protocol.
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
        """The notes without the warnings of the findings."""
        warnings = _warnings(self.findings)
        return [note for note in self.notes if note not in warnings]

    def __repr__(self) -> str:
        """Scores with their intervals, then notes and warnings, a line each."""
        points = f"{len(self.clean):,}" + (f" of {self.asked:,}" if len(self.clean) < self.asked else "")
        lines = [f"{points} points"]
        for score in self.scores:
            low, high = score.interval
            lines.append(f"{called(score)}: {score.accuracy:.2%} right (95% interval {low:.2%} .. {high:.2%})")
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
        """In [0, 1], over all n points, at the largest eps."""
        return int(self.robust.sum()) / len(self.robust)

    @property
    def interval(self) -> Interval:
        """The 95% interval of ``robust_accuracy``, or of ``clean_accuracy`` if there was no attack."""
        return self.scores[-1].interval


def _warnings(findings: "Sequence[Finding]") -> list[str]:
    # "as found" repeats what is a note already
    return [f"warning: {each.line}" for each in findings if each.severity == "warning" and each.name != "as found"]
