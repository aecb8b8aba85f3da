"""The tries not yet begun, and which of them come next."""

import torch
from torch import Tensor


class Pending:
    """Tries of n points in the order (number of the try, point).

    Args:
        n: number of points.
        tries: number of tries a point.
    """

    def __init__(self, n: int, tries: int) -> None:
        self.n = n
        self.rows = torch.arange(n).repeat(tries)
        self.numbers = torch.arange(tries).repeat_interleave(n)

    def __len__(self) -> int:
        return len(self.rows)

    def drop(self, which: Tensor) -> None:
        """Remove attempts; ``which`` is bool (n, number of attempts at a point)."""
        kept = ~which[self.rows, self.numbers]
        self.rows, self.numbers = self.rows[kept], self.numbers[kept]

    def take(self, busy: Tensor, fallen: Tensor, most: int, beside: int) -> tuple[Tensor, Tensor]:
        """Remove and return the next tries: points and numbers, two int64 tensors of the same length.

        A point has one try at a time, for its next ones may be spared; only where fewer than ``beside`` rows
        are busy do further tries join, because a pass over a few rows takes no less time than over some more.

        Args:
            busy: int64, the points of the rows under way.
            fallen: bool (n,), points whose tries are dropped.
            most: rows at a time, those under way included.
            beside: see above.
        """
        standing = ~fallen[self.rows]
        self.rows, self.numbers = self.rows[standing], self.numbers[standing]
        place = torch.arange(len(self.rows))
        first = torch.full((self.n,), len(self.rows)).scatter_reduce(0, self.rows, place, "amin")
        occupied = torch.zeros(self.n, dtype=torch.bool)
        occupied[busy] = True
        alone = (first[self.rows] == place) & ~occupied[self.rows]
        taken = alone & (alone.cumsum(0) <= most - len(busy))
        room = min(beside, most) - len(busy) - int(taken.sum())
        if room > 0:
            taken |= ~taken & ((~taken).cumsum(0) <= room)
        out = self.rows[taken], self.numbers[taken]
        self.rows, self.numbers = self.rows[~taken], self.numbers[~taken]
        return out
