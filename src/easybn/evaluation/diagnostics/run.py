"""``diagnose``: every check on one model, and none of them able to stop the others."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from ...attacks.attack_mode import attack_mode
from ...attacks.model_call import one_line
from ...attacks.registry import BALLS
from ...keyed_random import permutation, torch_generators
from ...modes import preserve_state
from ...perturb.eps import parse_radii
from ...perturb.pgd import check_images
from ...progress import OnProgress, silent
from ..record import Record
from ..result import Evaluation
from .behaviour import batch_company, dynamic, model_state, probabilities, randomised, two_faced
from .cross_checks import batch_sizes, rescored, transfer
from .fast import about_fast
from .gradient_masking import clamped, gradient_passes, saturation, zero_gradients
from .inputs import few_points, normalisation, perturbation, units
from .label_order import labels
from .square import square
from .subject import Finding, Subject, share

Check = Callable[[Subject], list[Finding]]
CHECKS: dict[str, Check] = {
    "as found": model_state,
    "randomised": randomised,
    "company": batch_company,
    "outputs": probabilities,
    "dynamic": dynamic,
    "one function": two_faced,
    "labels": labels,
    "normalisation": normalisation,
    "units": units,
    "saturation": saturation,
    "zero gradients": zero_gradients,
    "clamped pixels": clamped,
    "gradients of attacks": gradient_passes,
    "square": square,
    "perturbation": perturbation,
    "rescored": rescored,
    "transfer": transfer,
    "batch sizes": batch_sizes,
    "points": few_points,
}
POINTS = 1000
"""Points that are looked at, drawn by the seed; all of them under ``thorough``."""
ORDER = ("warning", "note", "ok")
Radius = float | Fraction | str


def diagnose(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: Radius | Sequence[Radius],
    evaluation: Evaluation | None = None,
    record: Record | None = None,
    seed: int = 0,
    batch_size: int = 256,
    thorough: bool = False,
    progress: OnProgress | None = None,
    checks: Mapping[str, Check] = CHECKS,
) -> list[Finding]:
    """Look for what makes a robustness evaluation of ``model`` misleading.

    The model is looked at in eval mode and left as it was found: modes, weights, statistics, gradients, branch;
    torch's random state too. By default at most 1,000 points are classified, about a dozen times, and
    256 differentiated; with PGD on a few of them (l2, or branches) that is less than AutoAttack takes for ten points.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K).
        x: images in [0, 1], floating point, (N, ...): those of the evaluation's points, in its order.
        y: true classes, integers, (N,).
        norm: "l2" or "linf".
        eps: one radius or several, in [0, 1] pixel units; attacks use the largest.
        evaluation: of this model on these points, for the checks that need one.
        record: of tries at these points; by default the evaluation's.
        seed: of the draw of points, and of torch's generator while strange models are tried.
        batch_size: images a pass at most.
        thorough: all points, and longer attacks.
        progress: called as ``progress(done, total, what)`` before every check, and at the end.
        checks: those to make, by name; yours too: a function from a ``Subject`` to findings.

    Returns:
        The findings, warnings first, then notes, then what was checked and found well. A check that does not apply
        says nothing; one that fails is a note.

    Raises:
        TypeError: images that are not floating point.
        ValueError: images outside [0, 1], labels of another length, an eps or a norm that makes no sense, an
            evaluation of another number of points.
    """
    check_images(x, y)
    if norm not in BALLS:
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(BALLS)}")
    balls = [BALLS[norm](e) for e in parse_radii(eps)]
    if batch_size < 1:
        raise ValueError(f"eps must be one radius or more, and batch_size at least 1, got {batch_size}")
    if evaluation is not None and len(evaluation.clean) != len(x):
        raise ValueError(f"the evaluation is of {len(evaluation.clean)} points, and there are {len(x)} images")
    if record is None and evaluation is not None and len(evaluation.record):
        record = evaluation.record
    ball = max(balls, key=lambda each: float(each.eps))
    rows = torch.arange(len(x)) if thorough else permutation(len(x), seed, "diagnose")[:POINTS].sort().values
    devices = list({p.device for p in model.parameters() if p.device.type == "cuda"})
    with torch_generators(devices, seed), preserve_state(model), ExitStack() as stack:
        try:
            ready = stack.enter_context(attack_mode(model, probe=x.detach(), fold=False))
        except ValueError:  # the checks say what is wrong with it
            ready = stack.enter_context(attack_mode(model))
        # indexed here, where they are no inference tensors
        drawn, label = x.detach()[rows.to(x.device)], y.detach().cpu().long()[rows]
        subject = Subject(
            ready, drawn, label, rows, ball, sorted(float(each.eps) for each in balls), evaluation, record,
            batch_size, thorough,
        )  # fmt: skip
        return _run(subject, checks, progress or silent)


def _run(subject: Subject, checks: Mapping[str, Check], progress: OnProgress) -> list[Finding]:
    subject, findings = _finite(subject)
    failed: dict[str, list[str]] = {}
    for done, (name, check) in enumerate(checks.items()):
        progress(done, len(checks), f"diagnosis, {name}")
        try:
            findings += check(subject)
        except Exception as error:  # of any kind: models do strange things, and the other checks still help
            failed.setdefault(one_line(error), []).append(name)
    findings += about_fast(subject.evaluation, findings)
    progress(len(checks), len(checks), "diagnosis")
    for reason, names in failed.items():
        why = "nothing is known of what they look for"
        findings.append(
            Finding("failed checks", "note", f"checks could not be made ({', '.join(names)})", reason, why,
                    "see whether the model is what easybn.evaluate asks for")
        )  # fmt: skip
    return sorted(findings, key=lambda finding: ORDER.index(finding.severity))


def _finite(subject: Subject) -> tuple[Subject, list[Finding]]:
    """The points with logits that can be compared, and a finding if there are others."""
    try:
        broken = subject.broken
    except Exception:  # the checks themselves tell of a model that cannot be called
        return subject, []
    if not broken.any():
        return subject, []
    finding = Finding(
        "finite logits", "warning", "the model's logits are NaN or infinite", share(int(broken.sum()), subject.n),
        "NaN is no answer: such a point is neither right nor attacked, and the other checks leave it out",
        "look for square roots of 0, divisions by 0 and overflows in the forward pass",
    )  # fmt: skip
    kept_rows = (~broken).nonzero()[:, 0]
    if not len(kept_rows):
        return subject, [finding]
    at = kept_rows.to(subject.x.device)
    return replace(subject, x=subject.x[at], y=subject.y[kept_rows], rows=subject.rows[kept_rows]), [finding]
