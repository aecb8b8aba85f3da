"""The same points under the ``robustness`` protocol at two batch sizes: does its absolute stabiliser bite?"""

import torch

from ...attacks.prepare import Prepared
from ...perturb.ball import L2
from ...perturb.pgd import PGD
from ..pgd_robustness import as_the_library
from .finding import Finding
from .subject import Subject

POINTS, STEPS, BATCH = 16, 25, 128
"""By default. It costs STEPS + 1 forward and STEPS backward passes of POINTS + BATCH images: about 3,700 and
3,600, less than AutoAttack takes for one robust point."""
THOROUGH_POINTS, THOROUGH_STEPS, THOROUGH_BATCH = 128, 100, 1000


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
    most, steps, batch = (
        (THOROUGH_POINTS, THOROUGH_STEPS, THOROUGH_BATCH) if subject.thorough else (POINTS, STEPS, BATCH)
    )
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


def _robust(ready: Prepared, attack: PGD, subject: Subject, rows: torch.Tensor, batch_size: int) -> torch.Tensor:
    x, y = subject.x[rows.to(subject.x.device)], subject.y[rows].to(subject.x.device)
    return as_the_library(ready, attack, x, y, batch_size).robust.cpu()
