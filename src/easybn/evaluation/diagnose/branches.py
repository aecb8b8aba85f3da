"""Adversarial images made against the other branches of a model, scored on the one that is evaluated."""

import torch
from torch import Tensor

from ...attacks.pgd import PGDSweep
from ...attacks.tracks import Tracks
from ...norm.branched import BranchedNorm
from ...norm.route import route
from .finding import Finding
from .paired import SIGNIFICANT, mcnemar
from .square import DROP
from .square import POINTS as FEW
from .subject import Subject

POINTS, STEPS = 64, 20
"""By default; it costs STEPS forward and backward passes of POINTS images for each branch, the evaluated one too."""
THOROUGH_POINTS, THOROUGH_STEPS = 500, 100


def transfer(subject: Subject) -> list[Finding]:
    """PGD against every branch, run to its end, scored on the evaluated branch; nothing for a plain model.

    Images found against the branch itself should be the worst it can get. Where another branch's break
    significantly more points, or points that the evaluation calls robust, its own gradients lead astray.
    """
    norms = [module for module in subject.ready.model.modules() if isinstance(module, BranchedNorm)]
    if not norms or len(norms[0].norms) < 2:
        return []
    scored = norms[0].active
    points, steps = (THOROUGH_POINTS, THOROUGH_STEPS) if subject.thorough else (POINTS, STEPS)
    n = min(points, subject.n)
    stands = _standing(subject, n, steps)
    findings = []
    for branch in (name for name in norms[0].norms if name != scored):
        with route(subject.ready.model, branch):
            images = strongest(subject, n, steps)
        theirs = subject.right(images, subject.y[:n])
        more, fewer = int((stands & ~theirs).sum()), int((theirs & ~stands).sum())
        refuted = _refuted(subject, ~theirs)
        size = (
            f"of {n} points {int(stands.sum())} stand under PGD-{steps} on {scored!r}, {int(theirs.sum())} under "
            f"images made against {branch!r} (eps {float(subject.ball.eps):.4g})"
        )
        if refuted:
            size += f"; these break {refuted} points that the evaluation calls robust"
        masked = more > fewer and mcnemar(more, fewer) < SIGNIFICANT
        if masked or (refuted >= FEW and refuted > DROP * n):
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
        tracks = Tracks.begun(rows, subject.y[rows], nothing - 1, nothing, nothing, centre)
        attack.begin(tracks)
        for _ in range(steps):
            attack.look(subject.ready, tracks)
            attack.move(subject.ready, tracks)
        made.append(tracks["point"].detach())
    return torch.cat(made)


def _standing(subject: Subject, n: int, steps: int) -> Tensor:
    """bool (n,): under the evaluated branch's own images."""
    return subject.right(strongest(subject, n, steps), subject.y[:n])


def _refuted(subject: Subject, broken: Tensor) -> int:
    """How many of the first points the evaluation calls robust at this eps though they are ``broken``."""
    robust = subject.evaluation.robust_at.get(float(subject.ball.eps)) if subject.evaluation else None
    return 0 if robust is None else int((robust.cpu()[subject.rows[: len(broken)]] & broken).sum())
