"""The evaluation's own adversarial images, classified once more: was it this model that they were made for?"""

import torch

from ...norm.branched import BranchedNorm
from ...norm.route import route
from .finding import Finding, share
from .square import DROP, POINTS
from .subject import Subject


def rescored(subject: Subject) -> list[Finding]:
    """Images kept by the evaluation, at its largest eps: they give its verdicts again; nothing without images."""
    evaluation = subject.evaluation
    if evaluation is None or not evaluation.images_at:
        return []
    eps = max(evaluation.images_at)
    rows = subject.rows.to(evaluation.images_at[eps].device)
    images, robust = evaluation.images_at[eps][rows], evaluation.robust_at[eps].cpu()[subject.rows]
    others = _differing(subject, images, robust)
    size = f"{share(others, subject.n)} at eps {eps:.4g}"
    if others < POINTS or others <= DROP * subject.n:
        return [Finding("rescored", "ok", "adversarial images classified again give the same verdicts", size)]
    norms = [module for module in subject.ready.model.modules() if isinstance(module, BranchedNorm)]
    where = "another model, another state of it, or (see company) batches on which its answers depend"
    for branch in norms[0].norms if norms else ():
        if branch == norms[0].active:
            continue
        with route(subject.ready.model, branch):
            again = _differing(subject, images, robust)
        if again < others:
            others, where = again, f"branch {branch!r} (where {again:,} differ) instead of {norms[0].active!r}"
    return [
        Finding(
            "rescored", "warning", "adversarial images classified again give other verdicts", size,
            f"attack and score seem to have gone through {where}",
            "evaluate again: route to the branch, or strip() to it, once and for both",
        )
    ]  # fmt: skip


def _differing(subject: Subject, images: torch.Tensor, robust: torch.Tensor) -> int:
    return int((subject.right(images, subject.y) != robust).sum())
