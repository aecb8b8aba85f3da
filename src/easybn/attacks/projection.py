"""The way from a point of [0, 1]^d to the nearest one on a hyperplane, in l-infinity or l2 (Croce & Hein, 2020, 3.1).

Both norms lead to one number a row. Moving by t, coordinate i goes ``min(t * speed_i, room_i)`` against the side of
the plane it is on: ``speed`` is 1 in l-infinity and |w_i| in l2, ``room`` is its distance to the face of the box
ahead. What is sought is the t whose moves, weighted by |w_i|, add up to the excess. Their sum is concave and piecewise
linear in t, so that Newton's method from t = 0 approaches from below and ends after finitely many passes, three or
four as a rule (Dinkelbach's argument: remainder times slope falls to a quarter at every pass). Nothing is sorted.
"""

import torch
from torch import Tensor


def linf(point: Tensor, normal: Tensor, excess: Tensor) -> Tensor:
    """The displacement of smallest largest entry that takes each point to its hyperplane within [0, 1]^d.

    Where the plane misses the box, the displacement to the corner nearest to it. Every row is a function of its own
    row of the arguments alone (but for rounding: sums may be taken in another order for another number of rows), and
    scaling ``normal`` and ``excess`` together changes nothing.

    Args:
        point: (N, d) in [0, 1], float32 or float64.
        normal: (N, d) the w of the plane {z: w.z = b}, finite; where it is 0 the coordinate, or the row, stays.
        excess: (N,) w.point - b, finite. Where the caller knows it, it is more accurate than that difference.

    Returns:
        (N, d), to be added to ``point``.
    """
    return _displacement(point, normal, excess, euclidean=False)


def l2(point: Tensor, normal: Tensor, excess: Tensor) -> Tensor:
    """As :func:`linf`, but the displacement of smallest Euclidean length."""
    return _displacement(point, normal, excess, euclidean=True)


def _displacement(point: Tensor, normal: Tensor, excess: Tensor, euclidean: bool) -> Tensor:
    size = normal.abs()
    largest = size.amax(1, keepdim=True)
    size /= largest.where(largest > 0, torch.ones_like(largest))  # the squares of small gradients underflow
    need = excess.abs() / largest[:, 0]
    ahead = normal * -excess.sign()[:, None]
    room = torch.gt(ahead, 0, out=torch.empty_like(point)).sub_(point).abs_()
    if euclidean:
        t = _solve(room / size, size * room, size * size, need)
        length = size * t[:, None]
    else:
        t = _solve(room, size * room, size, need)
        length = t[:, None].expand_as(room)
    return torch.minimum(length, room).mul_(ahead.sign_())


def _solve(stop: Tensor, most: Tensor, rate: Tensor, need: Tensor) -> Tensor:
    """(N,) the t at which sum_i min(t * rate_i, most_i) = need, or a number too large if that is out of reach.

    Args:
        stop: (N, d) most / rate; NaN where both are 0.
        most, rate: (N, d), not negative.
        need: (N,).
    """
    t, most_t = torch.zeros_like(need), torch.finfo(need.dtype).max
    rows = torch.arange(len(need), device=need.device)
    now = t
    mask = torch.empty_like(stop)  # of the points' own type: on a CPU torch is twenty times slower with bool masks
    while len(rows):
        slope = torch.gt(stop, now[:, None], out=mask).mul_(rate).sum(1)
        left = need - torch.le(stop, now[:, None], out=mask).mul_(most).sum(1)
        new = (left / slope).where(slope > 0, most_t).clamp_(max=most_t)
        # the same moving coordinates give the same t, to the bit in a pass of the same shape: so it comes to an end
        rises = (left > 0) & (new > now)
        if 4 * int(rises.sum()) <= len(rows):
            now, rows = new[rises], rows[rises]
            stop, most, rate, need = (each[rises] for each in (stop, most, rate, need))
            mask = mask[: len(rows)]
        else:
            now = new.where(rises, now)
        t[rows] = now
    return t
