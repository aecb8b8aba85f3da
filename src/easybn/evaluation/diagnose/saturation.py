"""Confident models: where float32 cross-entropy has no slope left."""

import torch.nn.functional as F

from .finding import Finding, share
from .subject import Subject

MARGIN = 17.0
"""float32 rounds the true class's probability to 1, and its gradient to exactly 0, beyond about this margin."""
SHARE = 0.01
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
    if either <= SHARE * subject.n:
        return [Finding("saturation", "ok", "few points are saturated", f"{size} (bound {SHARE:.0%})")]
    return [
        Finding(
            "saturation", "warning", "the cross-entropy is saturated", f"{size} (bound {SHARE:.0%})",
            "the robustness protocol and other attacks on float32 cross-entropy stand still there, and flatter it",
            "trust the strong protocol and attacks='standard', whose losses do not saturate",
        )
    ]  # fmt: skip
