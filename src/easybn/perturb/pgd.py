"""Projected gradient descent (Madry et al., 2018), on any callable from images to logits."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from ..keyed_random import Noise
from ..modes import frozen_parameters, frozen_stats
from .ball import Ball, per_sample
from .eps import parse_eps
from .goal import Goal, values_are_known


@dataclass(frozen=True)
class Perturbed:
    """The result of :meth:`PGD.run`.

    Args:
        x: the perturbed images, (N, ...), in the ball and in [0, 1], without a graph.
        steps: number of gradient steps per image.
        non_finite: (N,) int64, how many of them were skipped because the gradient was not finite.
    """

    x: Tensor
    steps: int
    non_finite: Tensor


@dataclass(frozen=True)
class PGD:
    """x' = Proj[x' + step_size * steepest(grad of the goal)], repeated (equation 1 of the EBN paper).

    It changes no parameter's ``.grad``, no mode and no running statistic of a module ``f``. (If ``f`` is a plain
    function that calls a model in train mode, wrap that model in ``frozen_stats``.) Only the gradient of the images is
    computed, so a step costs two forward passes, not three, for compiled modules too.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        steps: number of steps, at least 1.
        step_size: length of a step in the ball's norm, in [0, 1] pixel units. Default: eps for one step,
            2.5 * eps / steps for more.
        random_start: probability, per image, of starting from a random point of the ball rather than from the image:
            False or 0 never, True or 1 always, AdvProp 0.8.
    """

    ball: Ball
    steps: int = 1
    step_size: float | Fraction | None = None
    random_start: bool | float = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.random_start <= 1:
            raise ValueError(f"random_start must be a probability in [0, 1], got {self.random_start}")
        if self.step_size is not None:
            object.__setattr__(self, "step_size", parse_eps(self.step_size, "step_size"))

    def __call__(self, f: Callable[[Tensor], Tensor], x: Tensor, goal: Goal, noise: Noise | None = None) -> Tensor:
        """The perturbed images; arguments as for :meth:`run`."""
        return self.run(f, x, goal, noise).x

    def run(self, f: Callable[[Tensor], Tensor], x: Tensor, goal: Goal, noise: Noise | None = None) -> Perturbed:
        """Perturb a batch.

        Args:
            f: any callable from images (N, ...) to logits (N, K), such as a module.
            x: images in [0, 1], floating point, N at least 1.
            goal: ``untargeted(y)``, ``targeted(t)``, ``random_target(y)``, ``mixed_target(y, p)`` or ``easy(y)``.
            noise: random streams for the start; by default drawn from torch's global generator.

        Raises:
            TypeError: images that are not floating point, an ``f`` that does not return logits.
            ValueError: an empty batch, images outside [0, 1] or not finite, labels that do not fit, an ``f`` without a
                gradient.
        """
        check_images(x, goal.labels)
        self.ball.check_fits(x.shape[1:])
        x = x.detach()
        point = self._start(x, noise)
        size = self.step_length
        non_finite = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        target = None
        with torch.enable_grad(), ExitStack() as stack:
            if isinstance(f, nn.Module):
                stack.enter_context(frozen_stats(f))
                stack.enter_context(frozen_parameters(f))
            for _ in range(self.steps):
                point.requires_grad_()
                logits = f(point.clone())  # a copy, for models that write into their input
                if not isinstance(logits, Tensor) or logits.dim() != 2:
                    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                    raise TypeError(
                        f"the model must return a tensor of logits (N, K), got {got}: wrap the model; of several "
                        "outputs easybn.SelectOutput(model, 'logits') takes one"
                    )
                if not logits.requires_grad:
                    raise ValueError("the model has no gradient with respect to its images: is it under no_grad?")
                if target is None:
                    target = goal.target(logits.shape[1])
                gradient = _gradient(goal, logits, target, point)
                with torch.no_grad():
                    gradient, finite = finite_or_zero(gradient)
                    non_finite += ~finite
                    point = self.ball.project(point + size * self.ball.steepest(gradient), x)
        return Perturbed(point.detach(), self.steps, non_finite)

    @property
    def step_length(self) -> float:
        """The length of a step in the ball's norm, with the default filled in."""
        if self.step_size is not None:
            return float(self.step_size)
        return float(self.ball.eps) * (1.0 if self.steps == 1 else 2.5 / self.steps)

    def _start(self, x: Tensor, noise: Noise | None) -> Tensor:
        if not self.random_start:
            return x.clone()
        noise = Noise.fresh(len(x), x.device) if noise is None else noise
        point = self.ball.random(x, noise.child("start"))
        from_noise = noise.child("coin").uniform() < self.random_start
        return torch.where(per_sample(from_noise, x), point, x)


def _gradient(goal: Goal, logits: Tensor, target: Tensor, point: Tensor) -> Tensor:
    """(N, ...) the gradient of the objective at ``point``; in float16 up to a positive factor per image."""
    if logits.dtype != torch.float16:
        # a sum, so that an image's gradient does not depend on the batch size
        return torch.autograd.grad(goal.objective(logits, target).sum(), point)[0]
    # the gradient of a confident image is below float16's range; a step needs its direction only
    leaf = logits.detach().float().requires_grad_()
    (seed,) = torch.autograd.grad(goal.objective(leaf, target).sum(), leaf)
    largest = seed.abs().amax(1, keepdim=True)
    seed = seed * (64 / largest).where(largest > 0, torch.ones_like(largest))
    return torch.autograd.grad(logits, point, seed.to(logits.dtype))[0]


def finite_or_zero(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """(N, ...) the gradient, set to 0 for images where any entry is not finite; and bool (N,), where all are finite."""
    # the largest entry is finite if and only if all are (amax passes NaN on)
    finite = gradient.abs().amax(tuple(range(1, gradient.dim()))).isfinite()
    return gradient.where(per_sample(finite, gradient), 0), finite


def check_images(x: Tensor, labels: Tensor) -> None:
    """A clear error unless ``x`` is a batch of images in [0, 1] with one integer label each."""
    for name, given in (("images", x), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(given).__name__}: torch.as_tensor(...)")
    if not x.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {x.dtype}; uint8 images: x.float() / 255")
    if x.dim() < 2 or not len(x):
        raise ValueError(f"images must be a batch (N, ...) of at least one, got shape {tuple(x.shape)}")
    if labels.shape != x.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be integers of shape ({len(x)},), got {labels.dtype} {tuple(labels.shape)}")
    low, high = (0.0, 1.0) if values_are_known() else (float(v) for v in x.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(
            f"images must be in [0, 1], got {low:.9g} .. {high:.9g}: let the model normalise "
            "(easybn.models.Normalise); clamp what only rounding moved out"
        )
