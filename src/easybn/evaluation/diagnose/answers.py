"""Whether the model is one function from images to logits: no dice, no probabilities, no second face."""

import torch
from torch import Tensor

from .finding import Finding
from .subject import Subject

PASSES = 5
SPREAD = 1e-4
"""Largest l2 distance between normalised logits of two passes (AutoAttack, checks.py, check_randomized)."""
PROBABILITY_SLACK = 1e-5
"""Of sums and bounds (AutoAttack, checks.py, check_range_output)."""


def spread(a: Tensor, b: Tensor) -> float:
    """The largest l2 distance between rows of two (n, K) logits, each row scaled to length 1."""
    unit = [each / (each.norm(dim=1, keepdim=True) + 1e-10) for each in (a.double(), b.double())]
    return float((unit[0] - unit[1]).norm(dim=1).max())


def randomised(subject: Subject) -> list[Finding]:
    """Several passes over the first batch agree, in predictions and in normalised logits."""
    x = subject.x[: subject.batch_size]
    passes = [subject.classify(x) for _ in range(PASSES)]
    far = max(spread(a, b) for i, a in enumerate(passes) for b in passes[:i])
    flips = int((torch.stack([each.argmax(1) for each in passes]) != passes[0].argmax(1)).any(0).sum())
    size = f"{flips} of {len(x)} predictions change over {PASSES} passes, logits by {far:.2g} (bound {SPREAD:g})"
    if not flips and far <= SPREAD:
        return [Finding("randomised", "ok", "every pass says the same", size)]
    return [
        Finding(
            "randomised", "warning", "the model is randomised", size,
            "one pass's gradient points to one draw, and a point counts as fallen at the first unlucky draw",
            "use attacks='rand' (AutoAttack with 20 draws a gradient), and repeat the evaluation with other seeds",
        )
    ]  # fmt: skip


def probabilities(subject: Subject) -> list[Finding]:
    """The outputs are no probabilities."""
    logits = subject.logits.double()
    sums = float((logits.sum(1) - 1).abs().max())
    low, high = (float(v) for v in logits.aminmax())
    size = f"values {low:.3g} .. {high:.3g}, sums of rows differ from 1 by up to {sums:.2g}"
    if low <= -PROBABILITY_SLACK or high >= 1 + PROBABILITY_SLACK or sums >= PROBABILITY_SLACK:
        return [Finding("outputs", "ok", "the outputs are no probabilities", size)]
    return [
        Finding(
            "outputs", "warning", "the outputs are probabilities", size,
            "attacks put a softmax on top of what is one already, and gradients of confident points vanish",
            "return the logits: leave the softmax out of the model",
        )
    ]  # fmt: skip


def two_faced(subject: Subject) -> list[Finding]:
    """With and without gradients the model says the same; otherwise attack and score see two functions."""
    with_gradient, plain = subject.clean_slope.logits, subject.logits[: subject.some]
    far, noise = spread(with_gradient, plain), spread(subject.classify(subject.x[: subject.some]), plain)
    flips = int((with_gradient.argmax(1) != plain.argmax(1)).sum())
    if noise > SPREAD:  # told by the check for randomised models
        return []
    size = f"logits differ by {far:.2g} (bound {SPREAD:g}), {flips} of {subject.some} predictions"
    if far <= SPREAD:
        return [Finding("one function", "ok", "the model says the same with and without gradients", size)]
    return [
        Finding(
            "one function", "warning", "the model answers otherwise where gradients are taken", size,
            "attack and score go through different functions (branches?), so that the attack attacks another model",
            "let the forward pass not depend on requires_grad, grad mode or where the call comes from",
        )
    ]  # fmt: skip
