"""Whether two functions from images to logits are the same one, as far as an attack can tell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .losses import log_odds

TINY = 0.01
"""Signs are compared where a gradient's entry exceeds this share of the image's largest one."""


@dataclass(frozen=True)
class Bound:
    """How far two answers may be apart.

    Args:
        logits: largest absolute difference, in units of the largest absolute logit.
        cosine: least cosine between two gradients of an image.
        signs: least share of an image's entries, but for tiny ones, whose signs agree.
    """

    logits: float
    cosine: float
    signs: float


BOUNDS = {"32": Bound(1e-4, 0.999, 0.99), "bf16": Bound(5e-2, 0.9, 0.8)}
"""For each precision. Measured on 15 architectures with random weights: a float32 copy differs by up to 4e-6 in
logits and, where rounding moves an activation across a kink, by 2e-4 in cosine; bf16 by 0.02 and mostly 0.03."""


class Answer(NamedTuple):
    """What a model says of n images and how that changes with them, in float64.

    Args:
        logits: (n, K).
        label: int64 (n,), the class that the gradient is of.
        gradient: (n, ...), of ``log_odds``, with respect to the images.
    """

    logits: Tensor
    label: Tensor
    gradient: Tensor


def answer(call: Callable[[Tensor], Tensor], x: Tensor, label: Tensor | None = None) -> Answer:
    """The logits of images ``x`` (n, ...) and the gradient at ``label``, by default the predicted classes."""
    point = x.detach().requires_grad_()
    logits = call(point)
    label = logits.detach().argmax(1) if label is None else label
    (gradient,) = torch.autograd.grad(log_odds(logits, label).sum(), point)
    return Answer(logits.detach().double(), label, gradient.double())


def logit_distance(expected: Tensor, logits: Tensor) -> float:
    """The largest absolute difference of two (n, K) in units of the first one's largest finite absolute entry."""
    size, apart = expected.abs(), (expected - logits).abs()
    largest = float(size.where(size.isfinite(), torch.zeros_like(size)).amax())
    difference = float(apart.where(expected != logits, torch.zeros_like(apart)).amax())  # -inf in both is no difference
    return difference / largest if largest > 0 else difference


def disagreement(expected: Answer, other: Answer, bound: Bound) -> str | None:
    """In what two answers differ by more than ``bound``, or None; NaN differs from everything."""
    distance = logit_distance(expected.logits, other.logits)
    if not distance <= bound.logits:
        return f"logits differ by {distance:.2g} of the largest one (allowed: {bound.logits:g})"
    cosine = float(_cosine(expected.gradient.flatten(1), other.gradient.flatten(1)).amin())
    if not cosine >= bound.cosine:
        return f"the cosine between input gradients is {cosine:.5f} for an image (at least {bound.cosine:g} asked)"
    signs = float(_same_signs(expected.gradient.flatten(1), other.gradient.flatten(1)).amin())
    if not signs >= bound.signs:
        return f"{signs:.1%} of an image's gradient signs agree (at least {bound.signs:.0%} asked)"
    return None


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """(n,) for two (n, d); 1 where both vanish, 0 where only one does."""
    norms = a.norm(dim=1), b.norm(dim=1)
    cosine = (a * b).sum(1) / (norms[0] * norms[1]).clamp_min(torch.finfo(a.dtype).tiny)
    return cosine.where((norms[0] > 0) | (norms[1] > 0), torch.ones_like(cosine))


def _same_signs(a: Tensor, b: Tensor) -> Tensor:
    """(n,) shares of the entries that are not tiny in ``a``; 1 where all vanish."""
    counted = (a.abs() > TINY * a.abs().amax(1, keepdim=True)).double()
    return 1 - (counted * (a.sign() != b.sign())).sum(1) / counted.sum(1).clamp_min(1)
