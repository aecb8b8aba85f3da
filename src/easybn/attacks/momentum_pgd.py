"""The attacks of preset fast: ascents towards the likeliest targets; and from a random point, then from windows.

An attempt is a sequence of ascents of the same length, one after the other in the same row. What they share is paid
for once: the gradients of all classes at the clean image (MALT), and the decision whether another ascent is worth
while. That decision is made by the row's own margins: it depends on no other row.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import L2, Ball, Linf, per_sample
from .attack import Attack, AttackState, Variants, evaluate_where, finite_gradient, target_count
from .attack_mode import TargetModel
from .losses import log_odds, margin, towards
from .square import as_images, flip_window, move_mass, sides, stripes

MOMENTUM = 0.5
STEP = 2.0  # the first step of an ascent, in units of the radius
SHRINKING = 0.75  # of an ascent's steps: after these its ball has the radius eps
TARGET_CLASSES = 9  # of the largest clean logits: those that MALT puts in order
SHARE = 0.8  # of the image that the largest windows cover
STAGES = 6  # of Square's schedule that windows are drawn from: they halve in area from one to the next
ENOUGH = 3  # ascents, after which one knows how far apart they end
ROWS = 64  # images a pass at least, where there are that many windows to try


@dataclass(frozen=True)
class MomentumPGD(Attack):
    """Steepest ascent with momentum by steps whose length falls from twice the radius to 0 as a cosine does.

    Every other ascent begins in a ball of ``widest`` times eps, which shrinks to eps within three quarters of its
    steps. Where gradients near the image mislead, the way to the highest margin in the ball often leads from outside
    (after the multi-eps APGD of Croce & Hein, 2021, for l1). Images outside the ball count for nothing.

    Without a target it climbs the log odds of the true class (the direction of the cross-entropy), towards a target
    the difference of the two logits. The largest margin seen is kept in the record, also where nothing succeeds.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        targets: two ascents towards each of so many classes, in the order of MALT (Melamed et al., arXiv 2407.02240):
            margin over gradient norm at the clean image. 0 for ascents without a target.
        rounds: ascents without a target at most: the first from a random point of the ball, the others each from the
            best of some random windows as Square makes them (by their margin).
        reach: after the third of them an attempt ends once its largest margin lies farther below 0 than ``reach``
            times the difference of its ascents' largest and smallest margins. Where all starts lead to the same height,
            more of them lead nowhere else.
        iterations: steps of an ascent; it evaluates one image more.
        widest: radius of the ball that every other ascent begins in, in units of eps.
        windows: tried for one start.

    Raises:
        ValueError: an argument out of its range.
    """

    ball: Ball
    targets: int = 0
    rounds: int = 1
    reach: float = 3.0
    iterations: int = 40
    windows: int = 20
    widest: float = 4.0
    leaves_ball = True
    variants: ClassVar[Variants] = {
        "malt": {"targets": 3, "iterations": 26},
        "momentum-pgd": {"rounds": 25, "iterations": 20},
    }
    order = 5

    def __post_init__(self) -> None:
        if not isinstance(self.ball, (L2, Linf)):
            raise ValueError(f"MomentumPGD knows the balls L2 and Linf, got {type(self.ball).__name__}")
        for name in ("rounds", "iterations", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.widest >= 1:
            raise ValueError(f"widest must be at least 1, got {self.widest}")
        for name in ("targets", "reach"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "malt" if self.targets else "momentum-pgd"

    @property
    def steps(self) -> int:
        return self._ascents(self.rounds) * (self.iterations + 1) - 1

    @property
    def usual_steps(self) -> int:
        ascents = self._ascents(min(self.rounds, ENOUGH))
        # a step takes about as long as three forward passes
        beside = 1 + 2 * TARGET_CLASSES if self.targets else (ascents - 1) * self.windows
        return ascents * (self.iterations + 1) - 1 + beside // 3

    @property
    def least_passes(self) -> tuple[int, int]:
        ascents = self._ascents(min(self.rounds, ENOUGH))
        return ascents * (self.iterations + 1), ascents * self.iterations

    def _ascents(self, rounds: int) -> int:
        """How many there are: two towards each target, or else so many."""
        return 2 * self.targets or rounds

    def init(self, state: AttackState) -> None:
        image, none = state["original"], torch.full_like(state["best_distance"], -torch.inf)
        state.update(
            velocity=torch.zeros_like(image), gradient=torch.zeros_like(image),
            largest=none, of_ascent=none, of_lowest_ascent=-none,
        )  # fmt: skip
        if self.targets:
            state["order"] = torch.full((state.count, self.targets), -1, device=image.device)
        self._begin_ascent(state, torch.ones_like(state["row"], dtype=torch.bool), state["iteration"])

    def evaluate(self, model: TargetModel, state: AttackState) -> Tensor:
        step = self._step_of_ascent(state)
        if self.targets and (first := state["iteration"] == 0).any():
            self._order_targets(model, state, first)
        if not self.targets and (windows := (step == 0) & (state["iteration"] > 0)).any():
            self._choose_windows(model, state, windows)
        logits = evaluate_where(model, state, step < self.iterations, partial(self._differentiate, model, state))
        inside = (step == 0) | (self._radius(state["iteration"] - 1) <= 1)
        margins = margin(logits, state["label"]).where(inside, -torch.inf)
        self._note_margins(state, margins, step == self.iterations)
        return logits

    def ended(self, state: AttackState) -> Tensor:
        last = state["iteration"] >= self.steps
        if self.targets:
            return last
        enough = state["iteration"] >= ENOUGH * (self.iterations + 1) - 1
        apart = state["largest"] - state["of_lowest_ascent"]
        promising = -state["largest"] <= self.reach * apart
        return last | ((self._step_of_ascent(state) == self.iterations) & enough & ~promising)

    def step(self, model: TargetModel, state: AttackState) -> None:
        image, step = state["image"], self._step_of_ascent(state)
        radius = self._radius(state["iteration"])
        length = radius * (1 + (math.pi * step / self.iterations).cos()) * (STEP * float(self.ball.eps) / 2)
        state["velocity"] = MOMENTUM * state["velocity"] + self._unit(state["gradient"])
        ascent = per_sample(length.to(image.dtype), image) * self.ball.steepest(state["velocity"])
        state["image"] = self.ball.project(image + ascent, state["original"], radius)
        if (whole := step == self.iterations).any():
            self._begin_ascent(state, whole, state["iteration"] // (self.iterations + 1) + 1)

    def _step_of_ascent(self, state: AttackState) -> Tensor:
        return state["iteration"] % (self.iterations + 1)

    def _radius(self, iteration: Tensor) -> Tensor:
        """Radius of the ball that the step of an iteration (int64, (B,)) ends in, in units of eps."""
        number, step = iteration // (self.iterations + 1), iteration % (self.iterations + 1)
        left = (1 - step.double() / (SHRINKING * self.iterations)).clamp(min=0)
        return 1 + (self.widest - 1) * left.where(self._is_wide(number), 0)

    def _is_wide(self, number: Tensor) -> Tensor:
        """Which ascents (int64, (B,)) begin in a wider ball: every other one, the first from a window."""
        return number % 2 == 1

    # The beginning of an attempt, and of its ascents.

    def _order_targets(self, model: TargetModel, state: AttackState, rows: Tensor) -> None:
        """Write the ``order`` of the targets, and the first ``target``, of ``rows`` (bool (B,)); -1 for none."""
        nearest = malt_order(model, state["original"][rows], state["label"][rows], isinstance(self.ball, Linf))
        state.count_passes(rows, forwards=1, backwards=nearest.shape[1])
        order = F.pad(nearest, (0, self.targets), value=-1)[:, : self.targets]
        state.update_rows(rows, order=order, target=order[:, 0])

    def _begin_ascent(self, state: AttackState, rows: Tensor, number: Tensor) -> None:
        """Put ``rows`` (bool (B,)) at the start of their ascent ``number`` (int64 (B,)); windows are chosen later."""
        part = state.select(rows)
        image = self.ball.random(part["original"], Noise(part["key"]).child("start").numbered(number[rows]))
        state.update_rows(rows, image=image, velocity=torch.zeros_like(image))
        if self.targets:
            rank = (number[rows] // 2).clamp(max=self.targets - 1)
            state.update_rows(rows, target=part["order"].gather(1, rank[:, None])[:, 0])

    def _choose_windows(self, model: TargetModel, state: AttackState, rows: Tensor) -> None:
        """Put the image of largest margin among ``windows`` random ones into ``state["image"]`` of ``rows``."""
        part = state.select(rows)
        number = part["iteration"] // (self.iterations + 1)
        best, largest = part["image"], torch.full_like(part["best_distance"], -torch.inf)
        at_once = max(max(ROWS, state.count) // part.count, 1)
        for some in torch.split(torch.arange(self.windows, device=number.device), at_once):
            images = torch.cat([self._window(part, number * self.windows + each) for each in some])
            with torch.no_grad():
                margins = margin(model(images), part["label"].repeat(len(some))).view(len(some), -1)
            highest, which = margins.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).max(0)
            chosen = images.view(len(some), *best.shape)[which, torch.arange(part.count, device=number.device)]
            better = highest > largest
            best, largest = torch.where(per_sample(better, best), chosen, best), torch.where(better, highest, largest)
        state.count_passes(rows, forwards=self.windows)
        state.update_rows(rows, image=best)

    def _window(self, state: AttackState, number: Tensor) -> Tensor:
        """(B, ...) for each row a change in one window; ``number`` (B,) names the draw.

        In l-infinity it is Square's random pattern that is changed; in l2 the image itself, which spends all of eps in
        the window.
        """
        original, linf = as_images(state["original"].contiguous()), isinstance(self.ball, Linf)
        noise, eps = Noise(state["key"]).child("window").numbered(number), float(self.ball.eps)
        start = stripes(original, eps, noise.child("pattern")) if linf else original
        change = flip_window if linf else move_mass
        table = sides(SHARE, *original.shape[2:], linf)
        stage = noise.child("stage").integers(STAGES)
        return change(start, original, eps, table, stage, noise).view_as(state["original"])

    # An ascent.

    def _differentiate(self, model: TargetModel, state: AttackState, rows: Tensor) -> Tensor:
        image = state["image"][rows].detach().requires_grad_()
        logits = model(image)
        y, target = state["label"][rows], state["target"][rows]
        height = log_odds(logits, y).where(target < 0, towards(logits, y, target.clamp(min=0)))
        (gradient,) = torch.autograd.grad(height.sum(), image)
        state.count_passes(rows, forwards=1, backwards=1)
        state.update_rows(rows, gradient=finite_gradient(state, rows, gradient))
        return logits.detach()

    def _unit(self, gradient: Tensor) -> Tensor:
        """Gradients of all rows and steps made comparable: of mean absolute value 1, in l2 of length 1."""
        if isinstance(self.ball, L2):
            return self.ball.steepest(gradient)
        mean = gradient.abs().flatten(1).mean(1)
        return gradient / per_sample(mean.where(mean > 0, torch.ones_like(mean)), gradient)

    def _note_margins(self, state: AttackState, margins: Tensor, last: Tensor) -> None:
        """Keep the largest margins of the attempt and of its ascents, of which ``last`` (bool (B,)) have ended."""
        state["largest"] = torch.fmax(state["largest"], margins)
        state["of_ascent"] = torch.fmax(state["of_ascent"], margins)
        # an image that fools the surrogate alone is as near to adversarial as one can be
        known = state["best_distance"].isfinite()
        state["margin"] = torch.where(known, state["margin"], state["largest"].clamp(max=0.0))
        # those that begin in a wider ball have few steps left in it: that they end lower is no sign of several heights
        counts = last & ~self._is_wide(state["iteration"] // (self.iterations + 1))
        lowest = torch.minimum(state["of_lowest_ascent"], state["of_ascent"])
        state["of_lowest_ascent"] = torch.where(counts, lowest, state["of_lowest_ascent"])
        state["of_ascent"] = torch.where(last, -torch.inf, state["of_ascent"])


def malt_order(model: TargetModel, x: Tensor, y: Tensor, linf: bool) -> Tensor:
    """The other classes by how near their boundaries are if logits are linear: margin over dual norm of the gradient.

    Args:
        model: to differentiate, once forward and backward for each of the classes in question.
        x: images, (N, ...); y: their classes, int64 (N,).
        linf: whether distances are in l-infinity (gradients in l1) or in l2.

    Returns:
        int64 (N, C): the ``TARGET_CLASSES`` classes of largest logits, the nearest first; -1 for those without a
        boundary (masked by -inf, without a gradient).
    """
    with torch.enable_grad():
        image = x.detach().requires_grad_()
        logits = model(image)
        true = logits.gather(1, y[:, None])
        others = logits.detach().scatter(1, y[:, None], -torch.inf)
        classes = others.topk(target_count(logits.shape[1], TARGET_CLASSES), dim=1).indices
        gaps = logits.gather(1, classes).double() - true.double()
        distances = []
        for i in range(classes.shape[1]):
            (slope,) = torch.autograd.grad(gaps[:, i].sum(), image, retain_graph=i + 1 < classes.shape[1])
            norm = slope.flatten(1).double().norm(p=1 if linf else 2, dim=1)
            distances.append(-gaps[:, i].detach() / norm)
    distance = torch.stack(distances, 1).nan_to_num(nan=torch.inf, posinf=torch.inf)
    order = distance.argsort(dim=1, stable=True)
    nearest = classes.gather(1, order)
    return nearest.masked_fill(distance.gather(1, order).isinf(), -1)
