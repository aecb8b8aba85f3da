"""What an evaluation found."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .interval import Interval
from .record import Record
from .score import Score


@dataclass(frozen=True)
class Evaluation:
    """What :func:`easybn.evaluate` found on n points: all that were given, or those whose chunks are whole.

    Args:
        clean: bool (n,), classified correctly as they are.
        robust_at: for each eps, ascending, bool (n,): classified correctly under attack. A point that is
            wrong from the start is not robust.
        scores: a row for clean and one for each eps.
        notes: what a reader should know about the model or the attack, a sentence each.
        images_at: for each eps, (n, ...) such that classifying them gives ``robust_at`` again; empty unless
            images were asked for. Where nothing was found they are the images themselves.
        record: every try at every point. Empty under the ``robustness`` protocol.
        points: int64 (n,), the ids of the points, in the order given; ``point`` of the record is one of them.
        asked: how many points were given.
        findings: what a diagnosis says that the number alone does not, a line each; empty if none was made.
    """

    clean: Tensor
    robust_at: dict[float, Tensor]
    scores: list[Score]
    notes: list[str] = field(default_factory=list)
    images_at: dict[float, Tensor] = field(default_factory=dict)
    record: Record = field(default_factory=lambda: Record.joined([]))
    points: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    asked: int = 0
    findings: Sequence[object] = ()

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
