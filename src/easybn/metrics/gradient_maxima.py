"""The largest gradient norms among random points around an image: what CLEVER estimates a Lipschitz constant from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..attacks.attack_mode import TargetModel
from ..keyed_random import Noise
from ..perturb.ball import L2, Linf, l2_norm


def gradient_maxima(
    model: TargetModel,
    image: Tensor,
    label: int,
    targets: Sequence[int],
    noise: Noise,
    *,
    norm: str,
    radius: float,
    maxima: int,
    samples: int,
    batch_size: int = 128,
) -> Tensor:
    """For each target the largest dual norms of the gradient of z_label - z_target, each among points of its own.

    One forward pass of a point serves all targets, and each of them takes a backward pass.

    Args:
        model: from ``attack_mode``.
        image: in [0, 1], (...); the points are uniform in the ball around it and clipped to [0, 1].
        label, targets: classes, T targets.
        noise: one key, of the image; each point has its own number, so that results do not depend on batches.
        norm, radius: of the ball, "linf", "l2" or "l1", in [0, 1] pixel units.
        maxima: how many, each among ``samples`` points.
        batch_size: points a pass.

    Returns:
        (T, maxima) float64, on the CPU; NaN or infinite where a gradient was.
    """
    largest = torch.zeros(len(targets), maxima, dtype=torch.float64)
    centre = model.load(image[None])
    for numbers in torch.split(torch.arange(maxima * samples), batch_size):
        of_points = Noise(noise.keys.cpu().expand(len(numbers))).numbered(numbers)
        points = random_points(norm, radius, centre.expand(len(numbers), *image.shape), of_points)
        norms = gradient_norms(model, points, label, targets, norm)
        largest.scatter_reduce_(1, (numbers // samples).expand_as(norms), norms, "amax")  # spreads NaN
    return largest


def random_points(norm: str, radius: float, centre: Tensor, noise: Noise) -> Tensor:
    """(N, ...) uniformly random points of the ball around ``centre`` (N, ...), clipped to [0, 1]."""
    noise = Noise(noise.keys.to(centre.device))
    if norm != "l1":
        return (Linf(min(radius, 1.0)) if norm == "linf" else L2(radius)).random(centre, noise)
    # d of d + 1 exponential numbers, over the sum of all, are uniform in the simplex below 1
    size = centre[0].numel()
    exponential = -torch.log1p(-noise.child("size").uniform(size + 1))
    share = exponential[:, :-1] / exponential.sum(1, keepdim=True)
    sign = noise.child("sign").integers(2, size) * 2 - 1
    return (centre + (radius * share * sign).view(centre.shape).to(centre.dtype)).clamp_(0, 1)


def gradient_norms(model: TargetModel, points: Tensor, label: int, targets: Sequence[int], norm: str) -> Tensor:
    """(T, N) float64, on the CPU: dual norms of the gradients of z_label - z_target at ``points`` (N, ...)."""
    points = model.call.laid_out(points).detach().requires_grad_()
    logits = model(points)
    gaps = (logits[:, label, None] - logits[:, list(targets)]).sum(0).unbind()
    norms = []
    for i, gap in enumerate(gaps):
        (slope,) = torch.autograd.grad(gap, points, retain_graph=i + 1 < len(gaps))
        norms.append(dual_norm(slope, norm))
    return torch.stack(norms).double().cpu()


def dual_norm(gradient: Tensor, norm: str) -> Tensor:
    """(N,) the norm of gradients (N, ...) by which a function changes most within ``norm``: l1 for linf, and back."""
    if norm == "l2":
        return l2_norm(gradient)
    size = gradient.flatten(1).abs()
    return size.sum(1) if norm == "linf" else size.amax(1)
