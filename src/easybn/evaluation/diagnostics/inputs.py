"""Whether images, eps and the number of points are what the figures need."""

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from torch import Tensor

from ...attacks.registry import UNBOUNDED
from ...perturb.ball import rounding
from ...perturb.eps import format_eps
from ...stats import SIGNIFICANT, accuracy_interval, mcnemar
from ..record import CLEAN
from ..result import points_in_words
from ..verdicts import proves
from .subject import Finding, Subject, share

# Images that seem normalised twice, or not at all: does the model do better on another scaling?

GAIN = 0.02
"""Points of accuracy that another scaling must gain, beside being significant (``SIGNIFICANT``)."""
DARK = 2 / 255
"""If no pixel is brighter than that, the images were divided by 255 twice."""
LEAST_STD = 1e-3
"""Channels are not divided by less."""


def normalisation(subject: Subject) -> list[Finding]:
    """Clean accuracy on the images as given against that on the images scaled otherwise, paired."""
    x, y = subject.x, subject.intended  # labels in another order have a check of their own
    right = subject.logits.argmax(1) == y
    mean, std = _statistics(x)
    channels = f"channels have means {_short(mean)} and deviations {_short(std)}"
    if float(x.max()) <= DARK:
        size = f"no pixel exceeds {float(x.max()):.2g}; {channels}"
        return [_finding("the images are nearly black", size, "pass images in [0, 1]: divide 0..255 by 255 once")]
    best, told = GAIN, None
    for name, remedy, other in _alternatives(subject, mean, std):
        also = subject.right(other, y)
        gained, lost = int((also & ~right).sum()), int((right & ~also).sum())
        gain = (gained - lost) / subject.n
        if gain > best and (p := mcnemar(lost, gained)) < SIGNIFICANT:
            size = (
                f"{share(int(right.sum()), subject.n)} right as given, {share(int(also.sum()), subject.n)} "
                f"{name} (p = {p:.1g}); {channels}"
            )
            best, told = gain, _finding(f"the model does better on images {name}", size, remedy)
    if told:
        return [told]
    size = f"{share(int(right.sum()), subject.n)} right, and no more by {GAIN:.0%} under any other scaling; {channels}"
    return [Finding("normalisation", "ok", "the images suit the model as they are", size)]


def _finding(what: str, size: str, remedy: str) -> Finding:
    why = "the model is not shown what it was trained on, so that neither accuracy nor eps means what it says"
    return Finding("normalisation", "warning", what, size, why, remedy)


def _alternatives(subject: Subject, mean: Tensor, std: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Other scalings of the images: in words, what to do if the model likes them better, and the images."""
    x = subject.x
    within = "put the missing normalisation into the model as its first layer (easybn.models.Normalise)"
    yield "normalised by their mean and deviation", within, (x - mean) / std.clamp(min=LEAST_STD)
    yield "scaled to -1 .. 1", within, 2 * x - 1
    yield "scaled to 0 .. 255", "let the model multiply its input by 255", 255 * x
    twice = "normalise once: leave out the model's normalisation, or that of the data"
    inside = _inside(subject)
    for m, s in [inside] if inside else [(mean, std)]:
        yield "with a normalisation undone", twice, x * s.to(x) + m.to(x)


def _inside(subject: Subject) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of a normalising layer of the model, which call them so nearly everywhere."""
    for module in subject.ready.model.modules():
        mean, std = getattr(module, "mean", None), getattr(module, "std", None)
        if isinstance(mean, Tensor) and isinstance(std, Tensor) and mean.numel() == std.numel() == subject.x.shape[1]:
            shape = (1, -1, *[1] * (subject.x.dim() - 2))
            return mean.detach().reshape(shape), std.detach().reshape(shape)
    return None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, shaped to broadcast; of all values where images are vectors."""
    axes = [0, *range(2, x.dim())] if x.dim() > 2 else [0, 1]
    return x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)


def _short(values: Tensor) -> str:
    return ", ".join(f"{value:.3f}" for value in values.flatten().tolist()[:4])


# How far adversarial images are from their originals, compared with eps: is eps in the right units?

NEAR = 0.95
"""Share of eps that the farthest image reaches, if points are still robust at eps."""
CHANCE = 0.01
"""Distances spread evenly over (0, eps] all miss its last 5% with this probability or less..."""
ENOUGH = math.ceil(math.log(CHANCE) / math.log(NEAR))
"""...if there are that many (90): fewer prove nothing. An attack ends at the first success, and may be early."""
HALF_STEP = 0.5 / 255
"""Smaller perturbations vanish when an image is stored in 8 bits."""
GREY = 0.5
"""Within this l-infinity distance every image can be turned into uniform grey, so that no model can be robust."""
WHY = "the attack did not search the ball that the table names"


def perturbation(subject: Subject) -> list[Finding]:
    """The largest distance of adversarial images found, at each eps where that says something."""
    findings = []
    for eps in subject.radii:
        known = _farthest(subject, eps)
        if known is None:
            continue
        farthest, telling = known
        size = f"largest distance {farthest:.4g} for eps {format_eps(eps, subject.norm)}"
        if farthest > eps + rounding(subject.x.shape[1:]):
            remedy = "do not use these verdicts: check the units of eps, and that the record is of this norm"
            what = "adversarial images lie outside the ball"
            findings.append(Finding("perturbation", "warning", what, size, WHY, remedy))
        elif telling and farthest < NEAR * eps:
            remedy = "check the units of eps, the step size, and vanishing steps (saturation)"
            what = "adversarial images stay well inside the ball though points are robust"
            findings.append(Finding("perturbation", "warning", what, f"{size} (bound {NEAR:.0%})", WHY, remedy))
        else:
            findings.append(Finding("perturbation", "ok", "distances fit eps", size))
    return findings


def units(subject: Subject) -> list[Finding]:
    """An eps too small to be seen in 8 bits, or so large that every image can be turned into the same one."""
    eps, pixels = float(subject.ball.eps), subject.x[0].numel()
    grey = GREY * math.sqrt(pixels) if subject.norm == "l2" else GREY
    size = f"{subject.norm} {format_eps(eps, subject.norm)} for {pixels:,} pixels in [0, 1]"
    if eps >= grey:
        why = f"within {grey:.4g} every image can become uniform grey: nothing can be robust there"
        remedy = "give eps in [0, 1] pixel units, such as 8/255 (linf) or 0.5 (l2)"
        return [Finding("units", "warning", "eps is as large as the images", size, why, remedy)]
    if eps < HALF_STEP:
        why = f"below {HALF_STEP:.4g}, half a step of 8 bits, no stored image can carry the perturbation"
        remedy = "check whether eps was divided by 255 twice"
        return [Finding("units", "warning", "eps is below what 8 bits can show", size, why, remedy)]
    return [Finding("units", "ok", "eps is of a sensible size", size)]


def _farthest(subject: Subject, eps: float) -> tuple[float, bool] | None:
    """The largest distance found by attacks at ``eps``, and whether it should have come near eps; None if unknown."""
    record = subject.record
    if record is not None and (record.eps == eps).any():
        ours = (record.eps == eps) & (record.attack != CLEAN.attack) & ~np.isin(record.attack, UNBOUNDED)
        found = record.distance[ours & record.success]
        robust = len(np.setdiff1d(record.point, record.point[proves(record, eps)]))
        return (float(found.max()), robust > 0 and len(found) >= ENOUGH) if len(found) else None
    for score in subject.evaluation.scores if subject.evaluation else []:
        if score.eps == eps and score.protocol == "robustness":  # attacks every point to the end
            return score.max_perturbation, score.correct > 0
    return None


# Whether there are enough points.

WIDE = 0.05
"""Half-width of a 95% interval from which on models of different quality cannot be told apart."""
WANTED = 0.01
"""Half-width that a comparison of models needs, and for which the number of points is given."""


def few_points(subject: Subject) -> list[Finding]:
    """The widest 95% interval of the evaluation's scores, or that of clean accuracy."""
    scores = subject.evaluation.scores if subject.evaluation else []
    counts = [(score.correct, score.n) for score in scores] or [(int(subject.correct.sum()), subject.n)]
    correct, n = max(counts, key=lambda each: accuracy_interval(*each).half_width)
    half = accuracy_interval(correct, n).half_width
    size = f"{correct / n:.1%} of {points_in_words(n)}, plus or minus {half:.1%} (bound {WIDE:.0%})"
    if half <= WIDE:
        return [Finding("points", "ok", "the intervals are narrow enough", size)]
    return [
        Finding(
            "points", "note", "the interval is wide", size,
            "differences smaller than that cannot be seen",
            f"take {points_for(correct / n, WANTED):,} points for plus or minus {WANTED:.0%} at this accuracy",
        )
    ]  # fmt: skip


def points_for(accuracy: float, half_width: float, confidence: float = 0.95) -> int:
    """The least number of points whose interval (:func:`accuracy_interval`) is no wider than wanted.

    With z of the confidence, p and q = 1 - p, the half-width h obeys (h (n + z^2))^2 = z^2 (n p q + z^2 / 4),
    which is a quadratic equation in n.

    Args:
        accuracy: p, in [0, 1]; half_width: h, in (0, 0.5).

    Raises:
        ValueError: numbers out of range.
    """
    if not 0 <= accuracy <= 1 or not 0 < half_width < 0.5:
        raise ValueError(f"accuracy in [0, 1] and half_width in (0, 0.5), got {accuracy} and {half_width}")
    z2, h2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2, half_width**2
    half_b = z2 * (h2 - accuracy * (1 - accuracy) / 2)
    c = z2**2 * (h2 - 0.25)
    return max(1, math.ceil((-half_b + math.sqrt(half_b**2 - h2 * c)) / h2))
