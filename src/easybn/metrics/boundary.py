"""The decision boundary around test images: how far it is, what crosses it, and how linear the loss is there.

Along a path that starts at an image the answer is tried at fixed steps up to a range, and the first step with a wrong
answer is halved down to the change. So a distance is that of an image that *is* misclassified: an upper bound of the
distance of the nearest one, never a bound of robustness; a class change and back within one step goes unseen. An image
whose path has no change within the range is "not reached" (censored): it counts as larger than every distance found,
medians and shares are stated, and no mean over those that were reached.

Everything is measured in [0, 1]: the paths are straight lines whose pixels stop at black and white, and distances are
those of the images.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..keyed_random import Noise
from ..modes import frozen_parameters
from ..perturb.ball import Ball, Linf, per_sample
from ..perturb.pgd import finite_or_zero

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


# Paths: straight lines within [0, 1].


def random_direction(x: Tensor, ball: Ball, noise: Noise) -> Tensor:
    """(N, ...) directions of norm 1: every pixel up or down in l-infinity, uniform on the sphere in l2."""
    return ball.steepest(noise.normal(*x.shape[1:]).to(x))


def along(x: Tensor, direction: Tensor, distance: Tensor, ball: Ball) -> Tensor:
    """The images on the paths clamp(x + t direction), t >= 0, at the given distances from x; or the paths' ends.

    Args:
        x: images in [0, 1], (N, ...).
        direction: (N, ...), of norm 1; one of zeros has a path that stays.
        distance: (N,) float64, in the ball's norm.
    """
    wide, by = x.double(), direction.double()
    room = torch.where(by > 0, 1 - wide, wide)  # how far each pixel may go
    t, speed = distance.clone(), by.abs()
    if not isinstance(ball, Linf):  # pixels that have stopped leave the rest of the distance to the others
        while True:
            stopped = speed * per_sample(t, speed) >= room
            rest = (distance.square() - (room * stopped).square().flatten(1).sum(1)).clamp(min=0)
            moving = (speed * ~stopped).square().flatten(1).sum(1)
            # at the end of a path nothing moves; the distance grows with t, which therefore never falls
            longer = torch.where(moving > 0, (rest / moving.clamp(min=1e-300)).sqrt(), t)
            if bool((longer <= t * (1 + 1e-12)).all()):
                break
            t = torch.maximum(t, longer)
    step = torch.minimum(speed * per_sample(t, speed), room)
    return (wide + step * by.sign()).clamp_(0, 1).to(x.dtype)


@torch.no_grad()
def distance_to_change(
    model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, ball: Ball, grid: int, halvings: int
) -> Tensor:
    """(N,) float64: the distance along a path of the first image found that is not classified as ``y``.

    0 where the image itself is misclassified, as robust accuracy counts it; infinite where nothing was found.

    Args:
        model: from images in [0, 1] to logits.
        x, y: images (N, ...) and their true classes (N,).
        direction: of the paths, see :func:`along`.
        ball: its norm measures distances, and its eps is the range of the search.
        grid: number of steps from the image to the range.
        halvings: of the step in which the change was found: a distance is too large by at most
            range / grid / 2^halvings, if the class changes once in it.
    """
    step = float(ball.eps) / grid
    high = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def moved(rows: Tensor, distance: Tensor) -> Tensor:
        return along(x[rows], direction[rows], distance, ball)

    def wrong(rows: Tensor, distance: Tensor) -> Tensor:
        return model(moved(rows, distance)).argmax(1) != y[rows]

    left = torch.arange(len(x), device=x.device)
    for number in range(grid + 1):
        at = torch.full((len(left),), number * step, dtype=torch.float64, device=x.device)
        hit = wrong(left, at)
        high[left[hit]] = number * step
        left = left[~hit]
        if not len(left):
            break
    rows = ((high > 0) & high.isfinite()).nonzero()[:, 0]
    upper = high[rows]
    lower = upper - step
    for _ in range(halvings if len(rows) else 0):
        middle = (lower + upper) / 2
        hit = wrong(rows, middle)
        lower, upper = torch.where(hit, lower, middle), torch.where(hit, middle, upper)
    high[rows] = ball.distance(moved(rows, upper), x[rows])  # at the end of a path less than was asked for
    return high


# Segments from one image to another.


@torch.no_grad()
def changes_between(model: nn.Module, a: Tensor, b: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """How often the predicted class changes on the segments from images ``a`` to images ``b``, both (N, ...).

    Args:
        steps: the segment is seen at ``steps + 1`` points, its ends among them: what changes and changes back between
            two of them is not counted.

    Returns:
        (N,) int64, the number of changes; and (N,) bool, whether the ends are of different predicted classes, so that
        there must be at least one.
    """
    answers = [model(torch.lerp(a, b, number / steps)).argmax(1) for number in range(steps + 1)]
    seen = torch.stack(answers)
    return (seen[1:] != seen[:-1]).sum(0), seen[0] != seen[-1]


def partners(y: Tensor, noise: Noise, same: bool) -> Tensor:
    """(N,) int64: for each image the row of another one drawn at random, of the same class or of a different one.

    -1 where there is none.

    Args:
        y: classes, (N,).
        noise: a stream for each image.
    """
    fits = (y[:, None] == y) == same
    fits.fill_diagonal_(False)
    number = (noise.uniform()[:, None].double() * fits.sum(1, keepdim=True)).long()  # which of those that fit
    chosen = fits & (fits.cumsum(1) == number + 1)
    return torch.where(chosen.any(1), chosen.long().argmax(1), -1)


# Local linearity.


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
