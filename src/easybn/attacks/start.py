"""Where AutoAttack's gradient attacks start: at a fixed distance from the image, in a random direction."""

from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import Ball, Linf, per_sample
from .tracks import Tracks


def around(tracks: Tracks, ball: Ball, distance: float) -> Tensor:
    """(B, ...) images at ``distance`` from the original ones before they are clamped to [0, 1].

    As in the reference implementation: in l-infinity uniform numbers scaled so that the largest is ``distance``, in
    l2 normal numbers scaled to that length.
    """
    centre, noise = tracks["centre"], Noise(tracks["key"]).child("start")
    if isinstance(ball, Linf):
        offset = noise.uniform(*centre.shape[1:]).mul_(2).sub_(1)
        size = offset.flatten(1).abs().amax(1)
    else:
        offset = noise.normal(*centre.shape[1:])
        size = offset.flatten(1).norm(dim=1)
    offset = offset * per_sample(distance / (size + 1e-12), offset)
    return (centre + offset.to(centre.dtype)).clamp_(0, 1)
