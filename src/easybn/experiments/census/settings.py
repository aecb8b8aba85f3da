"""What a census of easy examples is asked."""

from dataclasses import dataclass
from typing import Any

from ...perturb.ball import Linf


@dataclass(frozen=True)
class Census:
    """What is asked of a training.

    Args:
        threshold: an image is easy when it is classified correctly with a confidence above this, in [0, 1).
        epochs: after each of how many first epochs the images are looked at.
        seeds: number of trainings, seeds 0 to seeds - 1.
        eps: l-infinity radius of the easy copies' one step, in [0, 1] pixel units.
    """

    threshold: float = 0.9
    epochs: int = 1
    seeds: int = 3
    eps: float = 1 / 255

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is a confidence in [0, 1), got {self.threshold}")
        for name in ("epochs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        Linf(self.eps)  # its own message

    @property
    def kind(self) -> dict[str, Any]:
        """The keys that tell this census's rows, and their epochs and seeds, from others in the folder."""
        return {"threshold": self.threshold, "norm": "linf", "eps": self.eps, "steps": 1}

    def has(self, row: dict[str, Any]) -> bool:
        """Whether a row of census.jsonl or overlap.jsonl is wanted."""
        seeds = [row[key] for key in ("seed", "seed_a", "seed_b") if key in row]
        known = all(row[key] == value for key, value in self.kind.items())
        return known and row["epoch"] <= self.epochs and all(seed < self.seeds for seed in seeds)
