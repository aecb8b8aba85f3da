"""A row of results: one attack at one radius on one set of points."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .interval import Interval, accuracy_interval


@dataclass(frozen=True)
class Score:
    """How many of n points were classified correctly, and under what.

    Args:
        attack: "clean", "pgd", "autoattack", or the names of one's own list, such as "apgd-ce+square".
        n: number of points.
        correct: number of points that were classified correctly (under the attack, if there was one).
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
            those that were misclassified as they are.
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

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n < 1:
            raise ValueError(f"correct must be in 0 .. n and n at least 1, got {self.correct} of {self.n}")

    @property
    def accuracy(self) -> float:
        """correct / n, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> Interval:
        """The 95% interval of the accuracy."""
        return accuracy_interval(self.correct, self.n)

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
        return cls(**row)
