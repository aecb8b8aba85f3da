"""Verdicts compared: on images classified again, under other branches' images, and at two batch sizes."""

import torch
from torch import Tensor

from ...attacks.attack import AttackState
from ...attacks.attack_mode import TargetModel
from ...attacks.pgd import PGDSweep
from ...norm.branched import BranchedNorm
from ...norm.route import route
from ...perturb.ball import L2
from ...perturb.eps import format_eps
from ...perturb.pgd import PGD
from ...stats import SIGNIFICANT, mcnemar
from ..pgd_robustness import reference_pgd
from .subject import DROP, FEW_POINTS, Finding, Subject, share

# The evaluation's own images, classified again.


def rescored(subject: Subject) -> list[Finding]:
    """Images kept by the evaluation, at its largest eps: they give its verdicts again; nothing without images."""
    evaluation = subject.evaluation
    if evaluation is None or not evaluation.images_at:
        return []
    eps = max(evaluation.images_at)
    rows = subject.rows.to(evaluation.images_at[eps].device)
    images, robust = evaluation.images_at[eps][rows], evaluation.robust_at[eps].cpu()[subject.rows]
    others = _differing(subject, images, robust)
    size = f"{share(others, subject.n)} at eps {format_eps(eps, subject.norm)}"
    if subject.ready.randomised:
        return [_scored_by_one_pass(subject, images, eps, float(robust.float().mean()))]
    if others < FEW_POINTS or others <= DROP * subject.n:
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


PASSES = 20


def _scored_by_one_pass(subject: Subject, images: torch.Tensor, eps: float, reported: float) -> Finding:
    """What a user measures who classifies the images of a randomised model once: another number at each pass."""
    once = [float(subject.right(images, subject.y).float().mean()) for _ in range(PASSES)]
    size = (
        f"{sum(once) / PASSES:.1%} right, {min(once):.1%} to {max(once):.1%} in {PASSES} passes; by most passes over "
        f"an image {reported:.1%} of {subject.n:,} points are robust at eps {format_eps(eps, subject.norm)}"
    )
    return Finding(
        "rescored", "note", "one pass over the adversarial images gives another accuracy each time", size,
        "a verdict is by most passes over an image, and one pass may be another",
        "quote the accuracy of one pass beside the robust accuracy",
    )  # fmt: skip


def _differing(subject: Subject, images: torch.Tensor, robust: torch.Tensor) -> int:
    return int((subject.right(images, subject.y) != robust).sum())


# Adversarial images made against the other branches of a model, classified by the one that is evaluated.

TRANSFER, TRANSFER_THOROUGH = (64, 20), (500, 100)
"""Points and steps: so many forward and backward passes for each branch, the evaluated one too."""


def transfer(subject: Subject) -> list[Finding]:
    """PGD against every branch, run to its end, scored on the evaluated branch; nothing for a plain model.

    Images found against the branch itself should be the worst it can get. Where another branch's break
    significantly more points, or points that the evaluation calls robust, its own gradients lead astray.
    """
    norms = [module for module in subject.ready.model.modules() if isinstance(module, BranchedNorm)]
    if not norms or len(norms[0].norms) < 2:
        return []
    scored = norms[0].active
    points, steps = TRANSFER_THOROUGH if subject.thorough else TRANSFER
    n = min(points, subject.n)
    ours = subject.right(strongest(subject, n, steps), subject.y[:n])
    findings = []
    for branch in (name for name in norms[0].norms if name != scored):
        with route(subject.ready.model, branch):
            images = strongest(subject, n, steps)
        theirs = subject.right(images, subject.y[:n])
        more, fewer = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        refuted = _refuted(subject, ~theirs)
        size = (
            f"of {n} points {int(ours.sum())} are robust under PGD-{steps} on {scored!r}, {int(theirs.sum())} under "
            f"images made against {branch!r} (eps {float(subject.ball.eps):.4g})"
        )
        if refuted:
            size += f"; these break {refuted} points that the evaluation calls robust"
        masked = more > fewer and mcnemar(more, fewer) < SIGNIFICANT
        if masked or (refuted >= FEW_POINTS and refuted > DROP * n):
            findings.append(
                Finding(
                    "transfer", "warning", f"images made against branch {branch!r} break {scored!r} more than its own",
                    size, "the gradients of the evaluated branch are masked: its figure is an upper bound",
                    f"count these images too: attack {branch!r}, score on {scored!r}, and take the worst case",
                )
            )  # fmt: skip
        else:
            what = f"images made against branch {branch!r} are no worse for {scored!r} than its own"
            findings.append(Finding("transfer", "ok", what, size))
    return findings


def strongest(subject: Subject, n: int, steps: int) -> Tensor:
    """(n, ...) the last iterates of PGD on the first n points; unlike the evaluation, it goes on after success."""
    attack = PGDSweep(subject.ball, "ce", steps)
    made = []
    for rows in torch.split(torch.arange(n), subject.batch_size):
        centre = subject.ready.load(subject.x[rows.to(subject.x.device)])
        nothing = torch.zeros_like(rows)
        state = AttackState.create(rows, subject.y[rows], nothing - 1, nothing, nothing, centre)
        attack.init(state)
        for _ in range(steps):
            attack.evaluate(subject.ready, state)
            attack.step(subject.ready, state)
        made.append(state["image"].detach())
    return torch.cat(made)


def _refuted(subject: Subject, broken: Tensor) -> int:
    """How many of the first points the evaluation calls robust at this eps though they are ``broken``."""
    robust = subject.evaluation.robust_at.get(float(subject.ball.eps)) if subject.evaluation else None
    return 0 if robust is None else int((robust.cpu()[subject.rows[: len(broken)]] & broken).sum())


# The same points under the ``robustness`` protocol at two batch sizes: does its absolute stabiliser bite?

BATCH_SIZES, BATCH_SIZES_THOROUGH = (16, 25, 128), (128, 100, 1000)
"""Points, steps and the large batch. By default that takes about 3,700 forward and 3,600 backward passes, less than
AutoAttack takes for one robust point."""


def batch_sizes(subject: Subject) -> list[Finding]:
    """Verdicts of one image a batch against those in a large one; in l2 alone, since a sign has no length.

    Nothing for an evaluation under other protocols, which do not divide by the batch size.

    The points are those classified correctly, at evenly spaced ranks of their margin. The large batch is made of
    copies of them, and as large as ``batch_size`` allows.
    """
    evaluation = subject.evaluation
    if not isinstance(subject.ball, L2) or (
        evaluation is not None and all(score.protocol != "robustness" for score in evaluation.scores)
    ):
        return []
    most, steps, batch = BATCH_SIZES_THOROUGH if subject.thorough else BATCH_SIZES
    ranked = subject.margins.argsort(stable=True)
    ranked = ranked[subject.correct[ranked]]
    batch = min(batch, subject.batch_size)
    if batch < 2 or not len(ranked):
        return []
    rows = ranked[torch.linspace(0, len(ranked) - 1, min(most, len(ranked), batch)).round().long()]
    copies = rows.repeat(-(-batch // len(rows)))[:batch]
    attack = PGD(subject.ball, steps, 2.5 * float(subject.ball.eps) / steps)
    alone = _robust(subject.ready, attack, subject, rows, 1)
    together = _robust(subject.ready, attack, subject, copies, batch)[: len(rows)]
    differ = int((alone != together).sum())
    size = (
        f"{differ} of {len(rows)} points, {int(alone.sum())} robust one by one and {int(together.sum())} in batches of "
        f"{batch} ({steps} steps, eps {float(subject.ball.eps):.4g})"
    )
    if not differ:
        return [
            Finding("batch sizes", "ok", "the robustness protocol gives the same verdicts at two batch sizes", size)
        ]
    return [
        Finding(
            "batch sizes", "warning", "verdicts of the robustness protocol depend on the batch size", size,
            "its gradient of the mean loss is compared with an absolute 1e-10, so that its steps vanish on this model",
            "quote its figure with the batch size, and take the strong protocol as the result",
        )
    ]  # fmt: skip


def _robust(ready: TargetModel, attack: PGD, subject: Subject, rows: torch.Tensor, batch_size: int) -> torch.Tensor:
    x, y = subject.x[rows.to(subject.x.device)], subject.y[rows].to(subject.x.device)
    return reference_pgd(ready, attack, x, y, batch_size).robust.cpu()
