"""FAB: along the decision boundary to its point nearest to the image (Croce & Hein, 2020, algorithm 1).

A step takes the boundary for the plane that touches it (equation 4), goes from where it is to a little beyond the
nearest point of that plane, biased towards the plane's point nearest to the image, and starts, where the last image
was adversarial, a tenth nearer to the image. The radius of the ball plays no part except in the size of random starts.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..perturb.ball import L2, Ball, Linf, per_sample
from .attack import Attack, AttackState, Attempt, Variants, finite_gradient, misclassified, random_start, target_count
from .attack_mode import TargetModel

ALPHA_MAX = 0.1  # most that the bias towards the image weighs in a step
ETA = 1.05  # how far to go, in units of the way to the plane
BETA = 0.9  # share of an adversarial perturbation that is left before the next step
FAILURES_IN_A_ROW = 3  # that must have followed the same two outcomes before another failure is expected


@dataclass(frozen=True)
class FAB(Attack):
    """Fast adaptive boundary attack, with the constants of the reference implementation.

    The reference passes every image through the model twice: to test it, and to differentiate there, or a tenth
    nearer if it was adversarial. Here an image is differentiated when it is tested if it is expected to fail, as it
    will where the attempt has failed after the same outcomes before. A targeted attempt without success spends 176 to
    188 forward and 100.5 backward passes in place of 203 and 100 (ResNets on Fashion-MNIST; perfect predictions would
    save 6 to 12 more).

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``, eps the smallest radius asked: an attempt ends once it has succeeded
            there. What it finds farther out is kept, and serves every larger radius.
        targeted: one attempt for each of the classes nearest by the clean logits, to the boundary with that class; if
            False, to whichever boundary is nearest, by the gradients of all classes.
        iterations: of each attempt.
        restarts: attempts at each target, the first from the image itself, the others from half of eps away.
        target_classes: of the targeted attack, at most; K classes have K - 1.
    """

    ball: Ball
    targeted: bool = True
    iterations: int = 100
    restarts: int = 1
    target_classes: int = 9
    bounded = False
    variants: ClassVar[Variants] = {"fab": {"targeted": False}, "fab-t": {}}
    order = 20

    def __post_init__(self) -> None:
        if not isinstance(self.ball, (L2, Linf)):
            raise ValueError(f"FAB knows the balls L2 and Linf, got {type(self.ball).__name__}")
        for name in ("iterations", "restarts", "target_classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "fab-t" if self.targeted else "fab"

    @property
    def steps(self) -> int:
        return self.iterations

    def attempts(self, classes: int) -> list[Attempt]:
        ranks = range(1, target_count(classes, self.target_classes) + 1) if self.targeted else [0]
        return [Attempt(rank, restart) for rank in ranks for restart in range(self.restarts)]

    def init(self, state: AttackState) -> None:
        image, iteration = state["original"], state["iteration"]
        if self.restarts > 1:
            image = torch.where(
                per_sample(state["attempt"] % self.restarts > 0, image),
                random_start(state, self.ball, float(self.ball.eps) / 2),
                image,
            )
        state.update(
            image=image, outside_image=image, outside_distance=torch.full_like(state["best_distance"], torch.inf),
            last_outcomes=torch.full_like(iteration, 3),
            failures=torch.zeros(len(iteration), 4, dtype=torch.int64, device=iteration.device),
        )  # fmt: skip

    def evaluate(self, model: TargetModel, state: AttackState) -> Tensor:
        image, iteration = state["image"], state["iteration"]
        early = (iteration == 0) | (self._expected_to_fail(state) & (iteration < self.iterations))
        zero = torch.zeros_like(iteration, dtype=image.dtype)
        state.update(has_gradient=early, logit_gap=zero, gradient=torch.zeros_like(image))
        parts = [self._differentiate(model, state, early)] if early.any() else []
        if not early.all():
            state.count_passes(~early, forwards=1)
            with torch.no_grad():
                parts.append(model(image[~early]))
        both = torch.cat(parts)
        logits = torch.empty_like(both)
        logits[torch.cat([rows.nonzero()[:, 0] for rows in (early, ~early)])] = both
        state["wrong"] = misclassified(logits, state["label"])[0] & (iteration > 0)  # the start is no result of a step
        return logits

    def step(self, model: TargetModel, state: AttackState) -> None:
        original, image, wrong = state["original"], state["image"], state.pop("wrong")
        self._note_outcome(state, wrong)
        image = torch.where(per_sample(wrong, image), original + (image - original) * BETA, image)
        state["image"] = image
        late = wrong | ~state.pop("has_gradient")
        if late.any():
            self._differentiate(model, state, late)
        state["image"] = self._beyond_plane(image, original, state.pop("logit_gap"), state.pop("gradient"))

    def _expected_to_fail(self, state: AttackState) -> Tensor:
        """bool (B,). Attempts settle into rhythms, mostly of period 1 or 2, other ones for each point and target.

        So the last two outcomes predict the next: 93 to 97% of the failures predicted come, and 59 to 74% of those
        that come are predicted (ResNets on Fashion-MNIST). The untargeted attack would lose the gradients of all
        classes by an error, and gain one forward pass: it predicts nothing.
        """
        if not self.targeted:
            return torch.zeros_like(state["last_outcomes"], dtype=torch.bool)
        return state["failures"].gather(1, state["last_outcomes"][:, None])[:, 0] >= FAILURES_IN_A_ROW

    def _note_outcome(self, state: AttackState, wrong: Tensor) -> None:
        """Update ``failures``: for each pair of last outcomes (0 to 3), how many failures in succession followed it."""
        last, stepped = state["last_outcomes"], state["iteration"] > 0
        count = state["failures"].gather(1, last[:, None])[:, 0]
        count = torch.where(stepped, torch.where(wrong, 0, count + 1), count)
        state["failures"] = state["failures"].scatter(1, last[:, None], count[:, None])
        state["last_outcomes"] = torch.where(stepped, (2 * last + wrong) % 4, last)

    def _differentiate(self, model: TargetModel, state: AttackState, rows: Tensor) -> Tensor:
        """Logits of the images of ``rows`` (bool (B,)); writes ``logit_gap`` and ``gradient`` of z_other - z_label.

        Of several other classes, those of the one whose linearised boundary is nearest.
        """
        label = state["label"][rows][:, None]
        with torch.enable_grad():
            image = state["image"][rows].detach().requires_grad_()
            logits = model(image)
            other = state["target"][rows][:, None]
            if not self.targeted:
                other = torch.arange(logits.shape[1] - 1, device=label.device).expand(len(label), -1)
                other = other + (other >= label)
            z = logits.to(image.dtype)
            gaps = z.gather(1, other) - z.gather(1, label)
            # a class that is masked by -inf in every row has no boundary
            unmasked = (~gaps.detach().isneginf().all(0)).nonzero()[:, 0]
            gaps = gaps[:, unmasked] if len(unmasked) else gaps[:, :1]
            sums = gaps.sum(0).unbind()
        state.count_passes(rows, forwards=1, backwards=len(sums))
        dual_norm = 1 if isinstance(self.ball, Linf) else 2
        for i, gap_sum in enumerate(sums):
            (slope,) = torch.autograd.grad(gap_sum, image, retain_graph=i + 1 < len(sums))
            this_gap = gaps[:, i].detach()
            # a class whose gradient is zero or not finite has no boundary that could be the nearest
            away = this_gap.abs() / slope.flatten(1).norm(p=dual_norm, dim=1)
            away = away.nan_to_num(nan=torch.inf, posinf=torch.inf)
            if not i:
                nearest, gap, gradient = away, this_gap, slope
            else:
                nearer = away < nearest
                nearest, gap = torch.where(nearer, away, nearest), torch.where(nearer, this_gap, gap)
                gradient = torch.where(per_sample(nearer, slope), slope, gradient)
        state.update_rows(rows, logit_gap=gap, gradient=finite_gradient(state, rows, gradient))
        return logits.detach()

    def _beyond_plane(self, image: Tensor, original: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
        """The next image, a little beyond the plane gap + gradient.(z - image) = 0, where that is finite."""
        x, x0, w = image.flatten(1), original.flatten(1), gradient.flatten(1)
        linf = isinstance(self.ball, Linf)
        p, project = (torch.inf, linf_to_plane) if linf else (2, l2_to_plane)
        excess, excess0 = gap, gap + (w * (x0 - x)).sum(1)
        d, d0 = (project(a, w, e.nan_to_num(0, 0, 0)) for a, e in ((x, excess), (x0, excess0)))
        length, length0 = (each.norm(p=p, dim=1, keepdim=True).clamp_(min=1e-8) for each in (d, d0))
        alpha = (length / (length + length0)).clamp_(max=ALPHA_MAX)
        return ((x + ETA * d) * (1 - alpha) + (x0 + ETA * d0) * alpha).clamp_(0, 1).view_as(image)


# The shortest way from a point of [0, 1]^d to a hyperplane, in l-infinity or l2 (section 3.1 of the paper).
#
# Both norms lead to one number per row. Moving by t, coordinate i goes ``min(t * speed_i, room_i)`` towards the plane:
# ``speed`` is 1 in l-infinity and |w_i| in l2, ``room`` is its distance to the face of the box ahead. Sought is the t
# whose moves, weighted by |w_i|, add up to the excess. Their sum is concave and piecewise linear in t, so that Newton's
# method from t = 0 approaches from below and ends after finitely many passes, usually three or four (Dinkelbach's
# argument: remainder times slope falls to a quarter at every pass). Nothing is sorted.


def linf_to_plane(point: Tensor, normal: Tensor, excess: Tensor) -> Tensor:
    """The displacement of smallest largest entry that takes each point to its hyperplane within [0, 1]^d.

    Where the plane misses the box, the displacement to the corner nearest to it. Every row is a function of its own
    row of the arguments alone (except for rounding: sums may be taken in another order for another number of rows),
    and scaling ``normal`` and ``excess`` together changes nothing.

    Args:
        point: (N, d) in [0, 1], float32 or float64.
        normal: (N, d) the w of the plane {z: w.z = b}, finite; where it is 0 the coordinate, or the row, stays.
        excess: (N,) w.point - b, finite. Where the caller knows it, it is more accurate than that difference.

    Returns:
        (N, d), to be added to ``point``.
    """
    return _displacement(point, normal, excess, euclidean=False)


def l2_to_plane(point: Tensor, normal: Tensor, excess: Tensor) -> Tensor:
    """As :func:`linf_to_plane`, but the displacement of smallest Euclidean length."""
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
    current = t
    mask = torch.empty_like(stop)  # of the points' own type: on a CPU torch is twenty times slower with bool masks
    while len(rows):
        slope = torch.gt(stop, current[:, None], out=mask).mul_(rate).sum(1)
        remaining = need - torch.le(stop, current[:, None], out=mask).mul_(most).sum(1)
        new = (remaining / slope).where(slope > 0, most_t).clamp_(max=most_t)
        # the same moving coordinates give the same t, to the bit in a pass of the same shape: so it comes to an end
        rises = (remaining > 0) & (new > current)
        if 4 * int(rises.sum()) <= len(rows):
            current, rows = new[rises], rows[rises]
            stop, most, rate, need = (each[rises] for each in (stop, most, rate, need))
            mask = mask[: len(rows)]
        else:
            current = new.where(rises, current)
        t[rows] = current
    return t
