"""How far two choices among the same samples agree, and how far chance alone would make them."""

from typing import NamedTuple

from torch import Tensor


class Overlap(NamedTuple):
    """Two sets of samples, both drawn from the same ``n``.

    Args:
        n: samples to choose from.
        a, b: the size of either set.
        both: samples in both.
    """

    n: int
    a: int
    b: int
    both: int

    @property
    def jaccard(self) -> float | None:
        """The size of the intersection over that of the union (Jaccard, 1912); None for two empty sets."""
        union = self.a + self.b - self.both
        return self.both / union if union else None

    @property
    def jaccard_by_chance(self) -> float | None:
        """What independent sets of these sizes would have, by their expected intersection a b / n; None for empty sets.

        Two sets of 90% of all samples share most of them whatever they are: compare :attr:`jaccard` with this.
        """
        both = self.a * self.b / self.n
        union = self.a + self.b - both
        return both / union if union else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (1960): agreement beyond chance, 1 where the sets are equal, 0 where they are independent.

        None where both sets are empty or have all samples: chance alone agrees everywhere then.
        """
        agreed = (self.n - self.a - self.b + 2 * self.both) / self.n
        p, q = self.a / self.n, self.b / self.n
        by_chance = p * q + (1 - p) * (1 - q)
        return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None


def overlap(a: Tensor, b: Tensor) -> Overlap:
    """Of two masks (N,) bool over the same samples, N at least 1.

    Raises:
        ValueError: masks of different lengths, or empty ones.
    """
    if a.shape != b.shape or a.dim() != 1 or not len(a):
        raise ValueError(f"two masks (N,) of the same samples, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    return Overlap(len(a), int(a.sum()), int(b.sum()), int((a & b).sum()))
