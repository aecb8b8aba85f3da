"""How far adversarial images are from their originals, against eps: is it in the units it should be?"""

import math

import numpy as np

from ...perturb.ball import L2
from ..record import CLEAN
from ..verdicts import FREE_OF_EPS, proves
from .finding import Finding
from .subject import Subject

NEAR = 0.95
"""Share of eps that the farthest image reaches, if points still stand at eps."""
CHANCE = 0.01
"""Distances spread evenly over (0, eps] all miss its last 5% with this probability or less..."""
ENOUGH = math.ceil(math.log(CHANCE) / math.log(NEAR))
"""...if there are that many (90): fewer prove nothing. An attack ends at the first success, and may be early."""
OVER = 1e-6
"""Rounding that a distance may exceed eps by, relative to it."""
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
        size = f"largest distance {farthest:.4g} for eps {eps:.4g}"
        if farthest > eps * (1 + OVER):
            remedy = "do not use these verdicts: check the units of eps, and that the record is of this norm"
            what = "adversarial images lie outside the ball"
            findings.append(Finding("perturbation", "warning", what, size, WHY, remedy))
        elif telling and farthest < NEAR * eps:
            remedy = "check the units of eps, the step size, and vanishing steps (saturation)"
            what = "adversarial images stay well inside the ball though points stand"
            findings.append(Finding("perturbation", "warning", what, f"{size} (bound {NEAR:.0%})", WHY, remedy))
        else:
            findings.append(Finding("perturbation", "ok", "distances fit eps", size))
    return findings


def units(subject: Subject) -> list[Finding]:
    """An eps too small to be seen in 8 bits, or so large that every image can be turned into the same one."""
    eps, pixels = float(subject.ball.eps), subject.x[0].numel()
    norm, grey = ("l2", GREY * math.sqrt(pixels)) if isinstance(subject.ball, L2) else ("linf", GREY)
    size = f"{norm} {eps:.4g} for {pixels:,} pixels in [0, 1]"
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
        ours = (record.eps == eps) & (record.attack != CLEAN.attack) & ~np.isin(record.attack, FREE_OF_EPS)
        found = record.distance[ours & record.fell]
        standing = len(np.setdiff1d(record.point, record.point[proves(record, eps)]))
        return (float(found.max()), standing > 0 and len(found) >= ENOUGH) if len(found) else None
    for score in subject.evaluation.scores if subject.evaluation else []:
        if score.eps == eps and score.protocol == "robustness":  # attacks every point to the end
            return score.max_perturbation, score.correct > 0
    return None
