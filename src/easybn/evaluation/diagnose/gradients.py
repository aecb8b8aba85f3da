"""Gradients that lead nowhere: masking by the architecture."""

import torch.nn.functional as F

from .finding import Finding, Severity, share
from .saturation import MARGIN
from .subject import Subject

SHARE = 0.01
"""From this share of points or passes on it is a warning; AutoAttack (check_zero_gradients) tells of any."""
WHY_ZERO = (
    "the architecture hides the slope (rounding, thresholds, detached parts), so that gradient attacks stand still"
)
REMEDY = (
    "do not count on gradient attacks: run Square, and attack a differentiable stand-in (BPDA, Athalye et al. 2018)"
)


def zero_gradients(subject: Subject) -> list[Finding]:
    """Clean points whose gradient of the float32 cross-entropy is exactly zero though it is not saturated."""
    n, gradient = subject.some, subject.clean_slope.gradient
    if gradient is None:
        size = f"none of {n} points has one"
        return [Finding("zero gradients", "warning", "the model has no input gradient", size, WHY_ZERO, REMEDY)]
    loss = F.cross_entropy(subject.logits[:n], subject.y[:n], reduction="none")
    sloped = (loss > 0) & (subject.margins[:n] <= MARGIN)
    flat = gradient.flatten(1)
    zero = int(((flat == 0).all(1) & sloped).sum())
    broken = int((~flat.isfinite()).any(1).sum())
    findings = []
    if broken:
        findings.append(
            Finding(
                "non-finite gradients", _severity(broken, n), "gradients of clean points are NaN or infinite",
                share(broken, n), "such a gradient is no step: the point is not attacked",
                "look for square roots of 0, divisions by 0 and overflows in the forward pass",
            )
        )  # fmt: skip
    size = f"{share(zero, n)} though not saturated"
    if zero:
        what = "the input gradient is exactly zero"
        return [Finding("zero gradients", _severity(zero, n), what, size, WHY_ZERO, REMEDY), *findings]
    return [Finding("zero gradients", "ok", "points that are not saturated have gradients", size), *findings]


def gradient_passes(subject: Subject) -> list[Finding]:
    """The gradients of the attacks themselves, as the record counts them; their losses do not saturate."""
    record = subject.record
    if record is None or not (passes := int(record.backwards.sum())):
        return []
    findings = []
    for name, count, why, remedy in (
        ("zero gradients", int(record.zero_gradients.sum()), WHY_ZERO, REMEDY),
        ("non-finite gradients", int(record.non_finite.sum()), "such a gradient is no step: the attack stands still",
         "look for square roots of 0, divisions by 0 and overflows in the forward pass"),
    ):  # fmt: skip
        size = share(count, passes, "backward passes")
        if count:
            what = f"attacks met {name}"
            findings.append(Finding(f"{name} of attacks", _severity(count, passes), what, size, why, remedy))
    return findings or [Finding("gradients of attacks", "ok", "none was zero or not finite", f"{passes:,} passes")]


def _severity(count: int, of: int) -> Severity:
    return "warning" if count >= SHARE * of else "note"
