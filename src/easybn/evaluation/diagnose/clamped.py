"""Pixels at a bound that attacks cannot move, because a layer cuts its input off there."""

import torch

from .finding import Finding, share
from .saturation import MARGIN
from .subject import Subject

INSIDE = 1e-4
"""How far the images are moved inside (0, 1) for comparison: a fortieth of a step of 8 bits."""
SHARE = 0.01
"""Share of all pixels from which on it is a warning."""


def clamped(subject: Subject) -> list[Finding]:
    """Pixels at exactly 0 or 1 with exactly zero gradient that have one a hair's breadth inside.

    torch 2.14 made the derivative of ``clamp`` at its bounds 0, which was 1; that of ``relu`` at 0 has always been
    0. Every second pixel is moved ``INSIDE`` its bound, then the others: a pixel that can move now was held by its
    bound, and one that still cannot move was held by it alone, and not by black neighbours (a relu of nothing but 0).
    """
    x, y, gradient = subject.x[: subject.some].cpu(), subject.y[: subject.some], subject.clean_slope.gradient
    if gradient is None:
        return []
    stuck = ((x == 0) | (x == 1)) & (gradient == 0)
    if stuck.any():
        places = [torch.arange(size).view(-1, *[1] * (x.dim() - 2 - axis)) for axis, size in enumerate(x.shape[1:])]
        chequered = sum(places, torch.zeros((), dtype=torch.int64)) % 2 == 0
        for moved in (chequered, ~chequered):
            inside = subject.slope(torch.where(moved, x * (1 - 2 * INSIDE) + INSIDE, x), y).gradient
            if inside is None:
                return []
            stuck &= (inside != 0) == moved
    # the neighbours too must have a gradient: a saturated or masked point is told elsewhere
    alive = (gradient != 0).flatten(1).any(1) | (subject.margins[: subject.some] <= MARGIN)
    count = int((stuck.flatten(1) & alive[:, None]).sum())
    size = f"{share(count, x.numel(), 'pixels')} of {len(x)} images at exactly 0 or 1"
    if not count:
        return [Finding("clamped pixels", "ok", "pixels at 0 and 1 can move", size)]
    return [
        Finding(
            "clamped pixels", "warning" if count >= SHARE * x.numel() else "note",
            "pixels have exactly zero gradient, and one just inside their bound", size,
            "a layer clamps its input (the derivative of clamp at its bounds is 0 from torch 2.14 on, was 1 before), "
            "so that gradient attacks that start at the image never move them",
            "leave the clamp out: images are in [0, 1] already; or use attacks with random starts",
        )
    ]  # fmt: skip
