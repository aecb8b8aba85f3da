"""Verdicts on a model that draws random numbers: an image is misclassified if most passes over it are.

A verdict by one pass belongs to the draw as much as to the image. An attack looks at hundreds of images of a point, one
of which meets an unlucky draw sooner or later: the point counts as broken, the attack stops, and classified again the
image is mostly right. Or the one pass that was to confirm a good image is a lucky one, and the point counts as robust.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .attack import misclassified
from .losses import margin

DRAWS = (7, 31, 127)
"""Numbers of passes after which an image is given up if most of them are clearly right. The last one decides."""
CLEAR = 2.5
"""Standard deviations of a fair coin's count from its half: more is no chance, but once in 160 times."""


class Vote(NamedTuple):
    """What the passes over n images say.

    Args:
        wrong: bool (n,), misclassified by most.
        clearly: bool (n,), by more than chance may add to a half.
        refuted: bool (n,), correct by as much.
        margin: float64 (n,), the median over the passes of the largest other logit minus the true one.
        passes: int64 (n,), how many there were.
    """

    wrong: Tensor
    clearly: Tensor
    refuted: Tensor
    margin: Tensor
    passes: Tensor


@torch.no_grad()
def vote(call: Callable[[Tensor], Tensor], images: Tensor, y: Tensor) -> Vote:
    """Classify ``images`` (n, ...) again and again, and compare with their classes ``y`` (int64, (n,)).

    Args:
        call: images to logits (n, K).
    """
    rows = torch.arange(len(images), device=images.device)
    count, passes = torch.zeros_like(rows), torch.zeros_like(rows)  # of wrong passes, and of all
    margins = torch.full((DRAWS[-1], len(rows)), torch.nan, dtype=torch.float64, device=images.device)
    for done, draws in zip((0, *DRAWS), DRAWS, strict=False):
        for draw in range(done, draws):
            logits = call(images[rows])
            count[rows] += misclassified(logits, y[rows])[0].long()
            margins[draw, rows] = margin(logits, y[rows])
        passes[rows] = draws
        rows = rows[count[rows] > draws / 2 - chance(draws)]
        if not len(rows):
            break
    left = torch.zeros_like(count, dtype=torch.bool)
    left[rows] = True
    half = DRAWS[-1] / 2
    return Vote(
        left & (count > half), left & (count > half + chance(DRAWS[-1])), ~left, margins.nanmedian(0).values, passes
    )


def chance(draws: int) -> float:
    """How far from half of them the count of so many fair coins may be by chance."""
    return CLEAR * math.sqrt(draws) / 2
