"""Which of the images just looked at are adversarial: only what the original model gets wrong counts."""

import torch
from torch import Tensor

from .attack import Attack
from .objective import margin
from .prepare import Prepared
from .tracks import Tracks
from .verdict import check_within, fooled


def judge(model: Prepared, attack: Attack, tracks: Tracks, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Look for successes among ``tracks["point"]``; ``reach`` and ``margin`` are written.

    A suspect goes once more through the original model, alone with the other suspects. If it is wrong by more
    than rounding can explain the point is down; if by less the success is noted and the try goes on. What an
    unbounded attack finds outside its ball is only noted (``far``, ``far_point``): it is verified at the end.

    Args:
        logits: (B, K), what the prepared model said of the points.

    Returns:
        Two bool tensors (B,): down for good; the point is the try's best adversarial image so far.

    Raises:
        RuntimeError: a bounded attack's image outside the ball or outside [0, 1].
    """
    wrong, clearly = fooled(logits, tracks["label"])
    down, best = torch.zeros_like(wrong), torch.zeros_like(wrong)
    if not wrong.any():
        return down, best
    near = wrong
    if not attack.bounded:
        distance = attack.ball.distance(tracks["point"], tracks["centre"])
        near = wrong & (distance <= float(attack.ball.eps))
        far = clearly & ~near & (distance < tracks["far"])
        if far.any():
            tracks.put(far, far=distance[far], far_point=tracks["point"][far])
        if not near.any():
            return down, best
    point, label = tracks["point"][near], tracks["label"][near]
    verified, surely, by = _verify(model, tracks, near, point, label)
    if attack.bounded:
        reached = check_within(attack.ball, point, tracks["centre"][near]).clamp(max=float(attack.ball.eps))
    else:
        reached = distance[near]
    better = verified & (surely | (reached < tracks["reach"][near]))
    down[near], best[near] = surely, better
    tracks.put(best, reach=reached[better], margin=by[better])
    return down, best


def settle(model: Prepared, tracks: Tracks, over: Tensor) -> Tensor:
    """At the end of the tries ``over`` (bool (B,)) of an unbounded attack: verify what was noted outside the ball.

    Returns:
        bool (B,): ``far_point`` is adversarial, and ``reach`` its distance.
    """
    rows = over & (tracks["far"] < tracks["reach"])
    best = torch.zeros_like(rows)
    if rows.any():
        verified, _, by = _verify(model, tracks, rows, tracks["far_point"][rows], tracks["label"][rows])
        best[rows] = verified
        tracks.put(best, reach=tracks["far"][best], margin=by[verified])
    return best


def _verify(
    model: Prepared, tracks: Tracks, rows: Tensor, point: Tensor, label: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Wrong, wrong beyond rounding (bool), and the margin (float64), by the original model."""
    logits = model.original(point)
    tracks.spent(rows, forwards=1)
    return *fooled(logits, label), margin(logits, label)
