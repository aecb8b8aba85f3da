"""Several queries of the Square attack in one pass, where few points are left.

A query is judged against the best image so far, and most queries do not improve on it. So the next ones are drawn
as if the present one failed, and looked at together with it: a pass over a few images takes hardly less time than
one over some more. The first that improves is taken, those behind it are drawn again from the new image. The
sequence of images is exactly that of one query at a time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .objective import margin
from .prepare import Prepared
from .tracks import Tracks
from .verdict import unanswered

MEMORY = 0.02  # weight of a query in the running share of queries that improved, ``luck``
WASTE = 0.15  # how many passes may be spent on queries that are drawn again, as a share of all


def look_on(
    model: Prepared, tracks: Tracks, proposal: Callable[[Tracks, Tensor], Tensor], queries: int, most: int
) -> Tensor:
    """(B, K) logits of the image that was taken in each row; ``point``, ``loss``, ``age`` and ``luck`` are its own.

    Args:
        proposal: the image of a query, given its rows and its number, int64 (B,).
        queries: of a try.
        most: queries of a row in a pass.
    """
    rows, age = torch.arange(tracks.count, device=tracks["row"].device), tracks["age"]
    depth = depths(tracks["luck"], most).minimum(queries + 1 - age)
    parent = rows.repeat_interleave(depth)
    offset = torch.arange(len(parent), device=parent.device) - (depth.cumsum(0) - depth)[parent]
    image, later = tracks["point"][parent], offset > 0
    if later.any():
        names = ("key", "best", "centre")
        behind = Tracks({name: tracks[name][parent[later]] for name in names})
        # the image of age a is that of query a - 1: the pattern of the start is no query
        image[later] = proposal(behind, age[parent[later]] + offset[later] - 1)
    with torch.no_grad():
        logits = model(image)
    loss = margin(logits, tracks["label"][parent])
    # where the logits say nothing the loss is NaN and the image adversarial
    improves = (loss > tracks["best_loss"][parent]) | unanswered(logits)
    # the first that improves, or else the last of the row
    rank = torch.where(improves | (offset == depth[parent] - 1), offset, len(parent))
    taken = torch.full_like(age, len(parent)).scatter_reduce(0, parent, rank, "amin")
    chosen = depth.cumsum(0) - depth + taken
    tracks.spent(forwards=1)
    tracks["forwards"] = tracks["forwards"] + depth - 1
    tracks.update(point=image[chosen], loss=loss[chosen], age=age + taken)
    tracks["luck"] = tracks["luck"] * (1 - MEMORY) ** taken.double()  # those before it did not improve
    return logits[chosen]


def depths(luck: Tensor, most: int) -> Tensor:
    """int64 (B,) queries in a pass, 1 .. most: after an improvement half of those behind it are wasted on average."""
    return (1 + 2 * WASTE / luck.clamp(min=1e-9)).clamp(max=most).long()
