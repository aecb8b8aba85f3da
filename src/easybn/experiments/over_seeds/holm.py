"""Several tests at once (Holm, 1979): the chance of a single false alarm among all of them stays below the level."""

from collections.abc import Sequence


def rejected(p: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected: the smallest p is held against level / m, the next against level / (m - 1), ...

    From the first that does not pass on, none does.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    out = [False] * len(p)
    for rank, i in enumerate(order):
        if p[i] > level / (len(p) - rank):
            break
        out[i] = True
    return out
