"""FAB: along the decision boundary to its point nearest to the image (Croce & Hein, 2020, algorithm 1).

A move takes the boundary for the plane that touches it (equation 4), goes from where it is to a little beyond the
nearest point of that plane, biased towards the plane's point nearest to the image, and starts, where the last image
was adversarial, a tenth nearer to the image. The radius of the ball plays no part but in the size of random starts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..perturb.ball import L2, Ball, Linf, per_sample
from . import projection
from .attack import Attack, Tracks, Try, around, counted, fooled, targets
from .prepare import Prepared

ALPHA_MAX = 0.1  # most that the bias towards the image weighs in a move
ETA = 1.05  # how far to go, in units of the way to the plane
BETA = 0.9  # share of an adversarial perturbation that is left before the next move
SURE = 3  # times in a row that the same two outcomes must have been followed by a failure


@dataclass(frozen=True)
class FAB(Attack):
    """Fast adaptive boundary attack, with the constants of the reference implementation.

    The reference passes every image through the model twice: to test it, and to differentiate there, or a tenth
    nearer if it was adversarial. Here an image is differentiated when it is tested if it is expected to fail, as it
    will where the try has failed in the like place before. A targeted try that stands spends 176 to 188 forward and
    100.5 backward passes in place of 203 and 100 (ResNets on Fashion-MNIST; never to err would spare 6 to 12 more).

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``, eps the smallest radius asked: a try ends once it has fallen there. What
            it finds farther out is kept, and serves every larger radius.
        targeted: one try for each of the classes nearest by the clean logits, to the boundary with that class; if
            False, to whichever boundary is nearest, by the gradients of all classes.
        iterations: of each try.
        restarts: tries at each target, the first from the image itself, the others from half of eps away.
        target_classes: of the targeted attack, at most; K classes have K - 1.
    """

    ball: Ball
    targeted: bool = True
    iterations: int = 100
    restarts: int = 1
    target_classes: int = 9
    bounded = False

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
    def moves(self) -> int:
        return self.iterations

    def tries(self, classes: int) -> list[Try]:
        ranks = range(1, targets(classes, self.target_classes) + 1) if self.targeted else [0]
        return [Try(rank, restart) for rank in ranks for restart in range(self.restarts)]

    def begin(self, tracks: Tracks) -> None:
        point, age = tracks["centre"], tracks["age"]
        if self.restarts > 1:
            point = torch.where(
                per_sample(tracks["number"] % self.restarts > 0, point),
                around(tracks, self.ball, float(self.ball.eps) / 2),
                point,
            )
        tracks.update(
            point=point, far_point=point, far=torch.full_like(tracks["reach"], torch.inf),
            lately=torch.full_like(age, 3), failures=torch.zeros(len(age), 4, dtype=torch.int64, device=age.device),
        )  # fmt: skip

    def look(self, model: Prepared, tracks: Tracks) -> Tensor:
        point, age = tracks["point"], tracks["age"]
        early = (age == 0) | (self._expected_to_fail(tracks) & (age < self.iterations))
        tracks.update(early=early, gap=torch.zeros_like(age, dtype=point.dtype), gradient=torch.zeros_like(point))
        parts = [self._differentiate(model, tracks, early)] if early.any() else []
        if not early.all():
            tracks.spent(~early, forwards=1)
            with torch.no_grad():
                parts.append(model(point[~early]))
        both = torch.cat(parts)
        logits = torch.empty_like(both)
        logits[torch.cat([rows.nonzero()[:, 0] for rows in (early, ~early)])] = both
        tracks["wrong"] = fooled(logits, tracks["label"])[0] & (age > 0)  # the start is no result of a move
        return logits

    def move(self, model: Prepared, tracks: Tracks) -> None:
        centre, point, wrong = tracks["centre"], tracks["point"], tracks.pop("wrong")
        self._learn(tracks, wrong)
        point = torch.where(per_sample(wrong, point), centre + (point - centre) * BETA, point)
        tracks["point"] = point
        late = wrong | ~tracks.pop("early")
        if late.any():
            self._differentiate(model, tracks, late)
        tracks["point"] = self._beyond(point, centre, tracks.pop("gap"), tracks.pop("gradient"))

    def _expected_to_fail(self, tracks: Tracks) -> Tensor:
        """bool (B,). Tries settle into rhythms, mostly of period 1 or 2, other ones for each point and target.

        So the last two outcomes tell the next: 93 to 97% of the failures predicted come, and 59 to 74% of those that
        come are predicted (ResNets on Fashion-MNIST). For one forward pass several gradients are too much at stake.
        """
        if not self.targeted:
            return torch.zeros_like(tracks["lately"], dtype=torch.bool)
        return tracks["failures"].gather(1, tracks["lately"][:, None])[:, 0] >= SURE

    def _learn(self, tracks: Tracks, wrong: Tensor) -> None:
        """Column ``failures``: how often in a row a pair of outcomes (``lately``, 0 to 3) was followed by a failure."""
        lately, moved = tracks["lately"], tracks["age"] > 0
        count = tracks["failures"].gather(1, lately[:, None])[:, 0]
        count = torch.where(moved, torch.where(wrong, 0, count + 1), count)
        tracks["failures"] = tracks["failures"].scatter(1, lately[:, None], count[:, None])
        tracks["lately"] = torch.where(moved, (2 * lately + wrong) % 4, lately)

    def _differentiate(self, model: Prepared, tracks: Tracks, rows: Tensor) -> Tensor:
        """Logits at the points of ``rows`` (bool (B,)); ``gap`` and ``gradient`` of z_other - z_label are written."""
        label = tracks["label"][rows][:, None]
        with torch.enable_grad():
            point = tracks["point"][rows].detach().requires_grad_()
            logits = model(point)
            other = tracks["target"][rows][:, None]
            if not self.targeted:
                other = torch.arange(logits.shape[1] - 1, device=label.device).expand(len(label), -1)
                other = other + (other >= label)
            z = logits.to(point.dtype)
            gaps = z.gather(1, other) - z.gather(1, label)
            # a class that is masked by -inf in every row has no boundary
            there = (~gaps.detach().isneginf().all(0)).nonzero()[:, 0]
            gaps = gaps[:, there] if len(there) else gaps[:, :1]
            sums = gaps.sum(0).unbind()
        tracks.spent(rows, forwards=1, backwards=len(sums))
        p = 1 if isinstance(self.ball, Linf) else 2
        for i, each in enumerate(sums):
            (slope,) = torch.autograd.grad(each, point, retain_graph=i + 1 < len(sums))
            high = gaps[:, i].detach()
            # a class whose gradient is zero or not finite has no boundary that could be the nearest
            away = (high.abs() / slope.flatten(1).norm(p=p, dim=1)).nan_to_num(nan=torch.inf, posinf=torch.inf)
            if not i:
                nearest, gap, gradient = away, high, slope
            else:
                nearer = away < nearest
                nearest, gap = torch.where(nearer, away, nearest), torch.where(nearer, high, gap)
                gradient = torch.where(per_sample(nearer, slope), slope, gradient)
        tracks.put(rows, gap=gap, gradient=counted(tracks, rows, gradient))
        return logits.detach()

    def _beyond(self, point: Tensor, centre: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
        """The next image, a little beyond the plane gap + gradient.(z - point) = 0, where that is finite."""
        x, x0, w = point.flatten(1), centre.flatten(1), gradient.flatten(1)
        p, project = (torch.inf, projection.linf) if isinstance(self.ball, Linf) else (2, projection.l2)
        excess, excess0 = gap, gap + (w * (x0 - x)).sum(1)
        d, d0 = (project(a, w, e.nan_to_num(0, 0, 0)) for a, e in ((x, excess), (x0, excess0)))
        length, length0 = (each.norm(p=p, dim=1, keepdim=True).clamp_(min=1e-8) for each in (d, d0))
        alpha = (length / (length + length0)).clamp_(max=ALPHA_MAX)
        return ((x + ETA * d) * (1 - alpha) + (x0 + ETA * d0) * alpha).clamp_(0, 1).view_as(point)
