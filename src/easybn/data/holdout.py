"""Which samples of a labelled set are held out: drawn by name, and fair to the classes."""

import torch
from torch import Tensor

from ..keyed_random import permutation


def _rank_in_class(labels: Tensor, drawn: Tensor, count: Tensor) -> Tensor:
    """(N,) how many samples of its own class come before each sample in the order ``drawn``."""
    by_class = drawn[torch.argsort(labels[drawn], stable=True)]
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (count.cumsum(0) - count)[labels[by_class]]
    return rank


def _quota(count: Tensor, n: int) -> Tensor:
    """(K,) how many of each class add up to ``n`` in proportion (Hamilton's method of largest remainders)."""
    total = max(int(count.sum()), 1)
    quota, remainder = n * count // total, n * count % total
    largest = torch.argsort(remainder, descending=True, stable=True)
    quota[largest[: n - int(quota.sum())]] += 1
    return quota


def draw(labels: Tensor, n: int, seed: int, purpose: str, proportional: bool = False) -> tuple[Tensor, Tensor]:
    """Divide the samples 0 .. N-1 into (kept, held), both in ascending order, with ``n`` of them in held.

    Every class gives the same number of samples to held, to within one, so long as that takes no more
    than half of the class; where it would, the larger classes make up for it. With ``proportional``,
    every class gives the same share of its samples instead, to within one.

    Args:
        labels: int64 tensor of shape (N,).
        n: 0 .. N.
        seed: the draw is named (seed, purpose) and depends on nothing else.
    """
    labels = labels.cpu()
    drawn = permutation(len(labels), seed, purpose)
    count = torch.bincount(labels)
    rank = _rank_in_class(labels, drawn, count)
    if proportional:
        depth = (rank >= _quota(count, n)[labels]).long()
    else:
        half_used = 2 * (rank + 1) > count[labels]  # such a sample comes after all first halves
        depth = rank + half_used * len(labels)
    order = drawn[torch.argsort(depth[drawn], stable=True)]  # equal depths, in different classes: as drawn
    return order[n:].sort().values, order[:n].sort().values
