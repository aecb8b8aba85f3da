"""The ``robustness`` protocol of PGD: step for step what the library of that name does, including its fault.

The gradient is that of the *mean* loss over the batch, and its norm is compared with an absolute 1e-10: on
a model whose cross-entropy saturates the steps vanish, the sooner the larger the batch. The figure therefore
belongs to its batch size, and the ``strong`` protocol may undercut it by far. It is here because published
columns were measured with it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attacks.attack import check_in_ball, invalid_logits, misclassified
from ..attacks.attack_mode import TargetModel
from ..perturb.ball import L2, l2_norm, per_sample
from ..perturb.eps import format_eps
from ..perturb.pgd import PGD
from ..progress import OnProgress, silent
from .result import Score

GRADIENT_STABILISER = 1e-10  # the library's, absolute


@dataclass(frozen=True)
class ReferenceResult:
    """What the attack found.

    Args:
        robust: bool (N,), on the device of the images: classified correctly after the attack.
        images: (N, ...), the best iterates, or None.
        score: the row of results.
        invalid_logits: bool (N,): misclassified because logits were NaN or infinite at an iterate.
    """

    robust: Tensor
    images: Tensor | None
    score: Score
    invalid_logits: Tensor


def reference_pgd(
    model: TargetModel,
    attack: PGD,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    keep_images: bool = False,
    progress: OnProgress = silent,
) -> ReferenceResult:
    """Attack every point, also those that are wrong as they are; the verdict is that of the best iterate.

    Args:
        model: from ``attack_mode``; the attack sees the original.
        attack: ball, steps and step length; the start is always the image itself.
        x: images in [0, 1], (N, ...); y: their classes, int64, (N,), on the same device.
        batch_size: images a batch; part of the algorithm.
        keep_images: return the best iterates.
        progress: called after every iteration with the image-steps done, N * (steps + 1) in all.

    Raises:
        RuntimeError: an image outside the ball or outside [0, 1], which would be a fault of this code.
    """
    robust = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    images = x.detach().to(model.image_dtype, copy=True) if keep_images else None
    norm = "l2" if isinstance(attack.ball, L2) else "linf"
    invalid = torch.zeros_like(robust)
    farthest, non_finite, total = 0.0, 0, len(x) * (attack.steps + 1)
    for start in range(0, len(x), batch_size):
        centre = model.load(x[start : start + batch_size])
        here = slice(start, start + len(centre))
        label = y[here].to(centre.device)

        def tick(passes: int, start: int = start, size: int = len(centre)) -> None:
            done = start * (attack.steps + 1) + size * passes
            progress(done, total, f"pgd {norm} {format_eps(float(attack.ball.eps), norm)} robustness")

        best, count = best_iterate(model, attack, centre, label, tick)
        with torch.no_grad():
            logits = model.original(best)
            robust[here] = ~misclassified(logits, label)[0].to(x.device)
            invalid[here] = invalid_logits(logits).to(x.device)
        farthest = max(farthest, float(check_in_ball(attack.ball, best, centre).max()))
        non_finite += count
        if images is not None:
            images[here] = best.to(images.device)
    score = Score(
        attack="pgd",
        n=len(x),
        correct=int(robust.sum()),
        protocol="robustness",
        norm=norm,
        eps=float(attack.ball.eps),
        steps=attack.steps,
        step_size=attack.step_length,
        batch_size=min(batch_size, len(x)),
        max_perturbation=farthest,
        non_finite=non_finite,
    )
    return ReferenceResult(robust, images, score, invalid)


def best_iterate(
    model: TargetModel, attack: PGD, x: Tensor, y: Tensor, tick: Callable[[int], None]
) -> tuple[Tensor, int]:
    """The iterate of largest cross-entropy for each image of one batch, and the count of non-finite gradients.

    Args:
        model: from ``attack_mode``.
        attack: ball, steps and step length.
        x: one batch of images as ``TargetModel.load`` gives them, (B, ...). B is part of the algorithm.
        y: their classes, int64, (B,).
        tick: called with the number of forward passes so far, steps + 1 in the end.
    """
    point, best, best_loss = x, x, torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    non_finite = 0
    for step in range(attack.steps + 1):
        # The library clamps to [0, 1] here, which changes no iterate. Its derivative at exactly 0 and 1 was 1 from
        # torch 0.4.1 on, as if it were not there, and is 0 in torch 2.14, where pixels that touch a bound would
        # never move again: the published figures are those of the former, and so are these.
        point = point.detach().requires_grad_()
        logits = model.original(point)
        losses = F.cross_entropy(logits.to(x.dtype), y, reduction="none")
        # where logits say nothing the loss is NaN, which the library never keeps: the point would count as robust
        worth = losses.detach().masked_fill(invalid_logits(logits.detach()), torch.inf)
        better = worth > best_loss
        best = torch.where(per_sample(better, best), point.detach(), best)
        best_loss = torch.where(better, worth, best_loss)
        if step < attack.steps:
            (gradient,) = torch.autograd.grad(losses.mean(), point)
            finite = gradient.flatten(1).isfinite().all(1)
            non_finite += int((~finite).sum())
            gradient = gradient.where(per_sample(finite, gradient), torch.zeros_like(gradient))
            point = _project(attack, point.detach() + attack.step_length * _direction(attack, gradient), x)
        tick(step + 1)
    return best, non_finite


def _direction(attack: PGD, gradient: Tensor) -> Tensor:
    if isinstance(attack.ball, L2):
        norm = gradient.flatten(1).norm(dim=1)
        return gradient / (per_sample(norm, gradient) + GRADIENT_STABILISER)
    return gradient.sign()


def _project(attack: PGD, point: Tensor, centre: Tensor) -> Tensor:
    eps, offset = float(attack.ball.eps), point - centre
    if isinstance(attack.ball, L2):
        # what torch.renorm does there, with a norm that is accurate for large images too
        norm = l2_norm(offset)
        shrink = torch.where(norm > eps, eps / (norm + 1e-7), torch.ones_like(norm))
        return (centre + offset * per_sample(shrink, offset)).clamp(0, 1)
    return (centre + offset.clamp(-eps, eps)).clamp(0, 1)
