"""How straight the loss of a network is around test images, and how steep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attacks.losses import margin
from ..keyed_random import Noise
from ..modes import evaluating, frozen_parameters
from ..perturb.ball import L2, Ball, Linf, per_sample
from ..perturb.eps import format_eps, parse_eps
from ..perturb.pgd import finite_or_zero
from ..progress import OnProgress, silent
from .instrument import Instrument, Measured, Plot, Subject
from .intervals import median_of

Value = Callable[[Tensor, Tensor], Tensor]
"""From logits (N, K) and classes (N,) to a number for each image, (N,) float64."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(N,) float64, in nats."""
    return nn.functional.cross_entropy(logits.double(), y, reduction="none")


def value_and_gradient(model: nn.Module, x: Tensor, y: Tensor, value: Value) -> tuple[Tensor, Tensor]:
    """The value (N,) at images (N, ...) and its gradient (N, ...), which is 0 where an entry is not finite."""
    with torch.enable_grad(), frozen_parameters(model):
        point = x.detach().clone().requires_grad_()
        values = value(model(point.clone()), y)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), finite_or_zero(gradient)[0]


def gradient_norm(gradient: Tensor, ball: Ball) -> Tensor:
    """(N,) float64: the dual norm of gradients (N, ...), how much the value changes per unit of the ball's norm.

    The l1 norm for l-infinity, the l2 norm for l2: the product with the steepest direction of norm 1.
    """
    return (gradient.double() * ball.steepest(gradient.double())).flatten(1).sum(1)


def nonlinearity(model: nn.Module, x: Tensor, y: Tensor, ball: Ball, value: Value, steps: int, noise: Noise) -> Tensor:
    """(N,) float64: how far the value departs from its tangent within the ball (Qin et al. 2019, arXiv 1907.02610).

    Their local linearity measure gamma(eps, x) = max |l(x + d) - l(x) - d . grad l(x)| over the ball of radius eps,
    within [0, 1] here. As there it is maximised by projected gradient ascent; from a random point of the ball, and from
    where the tangent is highest and lowest, since near x the departure has hardly a gradient. What is returned was
    reached, and the maximum may be larger.

    Args:
        model: from images in [0, 1] to logits.
        x, y: images (N, ...) and their true classes (N,).
        ball: where the maximum is searched for.
        value: l, such as :func:`cross_entropy` or :func:`~easybn.attacks.losses.margin`.
        steps: of each ascent; their lengths fall evenly from eps to eps / steps.
        noise: a stream for each image, for the random start.
    """
    centre, slope = value_and_gradient(model, x, y, value)
    tangent, eps = slope.double(), float(ball.eps)
    steepest = eps * ball.steepest(slope)
    largest = torch.zeros_like(centre)
    for point in (ball.random(x, noise), ball.project(x + steepest, x), ball.project(x - steepest, x)):
        for left in range(steps, -1, -1):
            values, gradient = value_and_gradient(model, point, y, value)
            departure = values - centre - (tangent * (point.double() - x.double())).flatten(1).sum(1)
            largest = torch.maximum(largest, departure.abs())
            uphill = (gradient - slope) * per_sample(departure.sign(), slope).to(slope)
            point = ball.project(point + eps * left / steps * ball.steepest(uphill), x)
    return largest


_LOSS, _MARGIN = "cross-entropy", "margin"
_VALUES: dict[str, Value] = {_LOSS: cross_entropy, _MARGIN: margin}


@dataclass(frozen=True)
class Linearity(Instrument):
    """Departure of the loss from its tangent (Qin et al. 2019), and the norm of its gradient, near each image.

    Both of the cross-entropy, which flattens where a network is sure of itself, and of the margin (the largest other
    logit minus the true one), which does not but scales with the logits.

    Args:
        linf_eps, l2_eps: the balls in which the largest departure is searched for.
        steps: of each of the three ascents of that search.
    """

    linf_eps: float = 8 / 255
    l2_eps: float = 0.5
    steps: int = 10

    name: ClassVar[str] = "linearity"
    title: ClassVar[str] = "Local linearity of the loss"
    reads: ClassVar[str] = (
        "How far the loss departs from its tangent at an image, at most, within a ball around it (Qin et al. 2019), "
        "and how steep it is there; medians over images. The departures were reached by gradient ascent: the true "
        "maximum may be larger. Intervals: order statistics of the images."
    )
    order: ClassVar[int] = 31
    images: ClassVar[int] = 200
    plots: ClassVar[Sequence[Plot]] = (
        Plot("nonlinearity", "median departure of the loss", "ball", "nats", _LOSS, joined=False),
        Plot("gradient_norm", "median dual norm of the loss's gradient", "ball", "nats per unit", _LOSS, joined=False),
        Plot("nonlinearity", "median departure of the margin", "ball", "logits", _MARGIN, joined=False, folded=True),
        Plot("gradient_norm", "median dual norm of the margin's gradient", "ball", "logits per unit", _MARGIN,
             joined=False, folded=True),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"linearity: steps must be at least 1, got {self.steps}")
        for name in ("linf_eps", "l2_eps"):
            parse_eps(getattr(self, name), f"linearity: {name}")
        _ = self.balls  # which check the rest

    @property
    def balls(self) -> dict[str, Ball]:
        """Where the departure is searched for, by the name of the norm."""
        return {"linf": Linf(self.linf_eps), "l2": L2(self.l2_eps)}

    def measure(self, subject: Subject, on_progress: OnProgress = silent) -> list[Measured]:
        for ball in self.balls.values():
            ball.check_fits(subject.split.shape)
        found: dict[tuple[str, str, str], list[Tensor]] = {}
        done, total = 0, len(subject.ids) * len(_VALUES) * len(self.balls)
        with evaluating(subject.model):
            for ids, x, y in subject.batches():
                noise = Noise.of(subject.seed, "linearity", ids)
                for series, value in _VALUES.items():
                    _, gradient = value_and_gradient(subject.model, x, y, value)
                    for norm, ball in self.balls.items():
                        departure = nonlinearity(subject.model, x, y, ball, value, self.steps, noise.child(norm))
                        found.setdefault(("nonlinearity", series, norm), []).append(departure.cpu())
                        steepness = gradient_norm(gradient, ball).cpu()
                        found.setdefault(("gradient_norm", series, norm), []).append(steepness)
                        done += len(ids)
                        on_progress(done, total, f"{series} {norm}")
        return [self._measured(*key, torch.cat(values)) for key, values in found.items()]

    def _measured(self, measure: str, series: str, norm: str, values: Tensor) -> Measured:
        median, low, high = median_of(values)
        place, detail = norm, {"zero": int((values == 0).sum())}
        if measure == "nonlinearity":
            place, detail = f"{norm} {format_eps(float(self.balls[norm].eps), norm)}", {}
        return Measured(measure, series, place, list(self.balls).index(norm), len(values), median, low, high, detail)
