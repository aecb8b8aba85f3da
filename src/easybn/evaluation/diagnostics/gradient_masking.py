"""Gradients that lead nowhere: saturated losses, zero gradients, clamped pixels."""

import torch
import torch.nn.functional as F

from .subject import Finding, Severity, Subject, share

# Confident models: where float32 cross-entropy has no slope left.

MARGIN = 17.0
"""float32 rounds the true class's probability to 1, and its gradient to exactly 0, beyond about this margin."""
SATURATED_SHARE = 0.01
"""Share of saturated points from which on it is a warning: one point of accuracy may be an illusion."""


def saturation(subject: Subject) -> list[Finding]:
    """Points whose float32 cross-entropy is exactly 0, or whose margin exceeds ``MARGIN``."""
    zero = F.cross_entropy(subject.logits, subject.y, reduction="none") == 0
    far = subject.margins > MARGIN
    either = int((zero | far).sum())
    size = (
        f"cross-entropy exactly 0 for {share(int(zero.sum()), subject.n)}, margin above {MARGIN:g} for "
        f"{share(int(far.sum()), subject.n)}, median margin {float(subject.margins.median()):.3g}"
    )
    if either <= SATURATED_SHARE * subject.n:
        return [Finding("saturation", "ok", "few points are saturated", f"{size} (bound {SATURATED_SHARE:.0%})")]
    return [
        Finding(
            "saturation", "warning", "the cross-entropy is saturated", f"{size} (bound {SATURATED_SHARE:.0%})",
            "the robustness protocol and other attacks on float32 cross-entropy cannot move there, and overestimate it",
            "trust the strong protocol and attacks='standard', whose losses do not saturate",
        )
    ]  # fmt: skip


# Gradients that lead nowhere: masking by the architecture.

ZERO_SHARE = 0.01
"""From this share of points or passes on it is a warning; AutoAttack (check_zero_gradients) reports any."""
WHY_ZERO = (
    "the architecture hides the slope (rounding, thresholds, detached parts), so that gradient attacks cannot move"
)
REMEDY = (
    "do not count on gradient attacks: run Square, and attack a differentiable stand-in (BPDA, Athalye et al. 2018)"
)


def zero_gradients(subject: Subject) -> list[Finding]:
    """Clean points whose gradient of the float32 cross-entropy is exactly zero though it is not saturated."""
    n, gradient = subject.some, subject.clean_slope.gradient
    differ = bool((subject.x != subject.x[:1]).any())
    if differ and (gradient is None or not gradient.any()) and bool((subject.logits == subject.logits[0]).all()):
        return [
            Finding(
                "zero gradients", "warning", "every image gets the same logits", f"all of {subject.n:,} points",
                "the model does not look at its input: its accuracy is the share of a class, and no attack changes it",
                "see whether the weights are the trained ones, and whether its layers are connected to the input",
            )
        ]  # fmt: skip
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
        ("non-finite gradients", int(record.non_finite.sum()), "such a gradient is no step: the attack cannot move",
         "look for square roots of 0, divisions by 0 and overflows in the forward pass"),
    ):  # fmt: skip
        size = share(count, passes, "backward passes")
        if count:
            what = f"attacks met {name}"
            findings.append(Finding(f"{name} of attacks", _severity(count, passes), what, size, why, remedy))
    return findings or [Finding("gradients of attacks", "ok", "none was zero or not finite", f"{passes:,} passes")]


def _severity(count: int, of: int) -> Severity:
    return "warning" if count >= ZERO_SHARE * of else "note"


# Pixels at a bound that attacks cannot move, because a layer cuts its input off there.

INSIDE = 1e-4
"""How far the images are moved inside (0, 1) for comparison: a fortieth of a step of 8 bits."""
CLAMPED_SHARE = 0.01
"""Share of all pixels from which on it is a warning."""


def clamped(subject: Subject) -> list[Finding]:
    """Pixels at exactly 0 or 1 with exactly zero gradient that have one a hair's breadth inside.

    torch 2.14 made the derivative of ``clamp`` at its bounds 0, which was 1; that of ``relu`` at 0 has always been
    0. Every second pixel is moved ``INSIDE`` its bound, then the others: a pixel that can move now was held by its
    bound, and one that still cannot move was held by it alone, and not by black neighbours (a relu of nothing but 0).
    """
    x, y, gradient = subject.x[: subject.some].cpu(), subject.y[: subject.some], subject.clean_slope.gradient
    if gradient is None:
        return []
    stuck = ((x == 0) | (x == 1)) & (gradient == 0)
    if stuck.any():
        places = [torch.arange(size).view(-1, *[1] * (x.dim() - 2 - axis)) for axis, size in enumerate(x.shape[1:])]
        chequered = sum(places, torch.zeros((), dtype=torch.int64)) % 2 == 0
        for moved in (chequered, ~chequered):
            inside = subject.slope(torch.where(moved, x * (1 - 2 * INSIDE) + INSIDE, x), y).gradient
            if inside is None:
                return []
            stuck &= (inside != 0) == moved
    # the neighbours too must have a gradient: saturated and masked points are the other checks' business
    alive = (gradient != 0).flatten(1).any(1) | (subject.margins[: subject.some] <= MARGIN)
    count = int((stuck.flatten(1) & alive[:, None]).sum())
    size = f"{share(count, x.numel(), 'pixels')} of {len(x)} images at exactly 0 or 1"
    if not count:
        return [Finding("clamped pixels", "ok", "pixels at 0 and 1 can move", size)]
    return [
        Finding(
            "clamped pixels", "warning" if count >= CLAMPED_SHARE * x.numel() else "note",
            "pixels have exactly zero gradient, and one just inside their bound", size,
            "a layer clamps its input (the derivative of clamp at its bounds is 0 from torch 2.14 on, was 1 before), "
            "so that gradient attacks that start at the image never move them",
            "leave the clamp out: images are in [0, 1] already; or use attacks with random starts",
        )
    ]  # fmt: skip
