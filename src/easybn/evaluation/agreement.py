"""Two evaluations of the same points, say at two batch sizes: where they differ, and which of them is right."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attacks.attack_mode import attack_mode
from ..attacks.losses import margin
from ..perturb.eps import format_eps
from .result import Evaluation


@dataclass(frozen=True)
class Differing:
    """A point that fell in one evaluation and stood in the other.

    Args:
        point: its id.
        eps: the radius.
        fell_in: 0 or 1, the evaluation that has an adversarial image of it.
        margin: what the model says of that image, classified alone: largest other logit minus the true one.
    """

    point: int
    eps: float
    fell_in: int
    margin: float

    @property
    def holds(self) -> bool:
        """The image fools the model: the other evaluation did not find it."""
        return not self.margin <= 0  # NaN: the model says nothing of it

    def __str__(self) -> str:
        found = "first" if self.fell_in == 0 else "second"
        is_ = "is" if self.holds else "is not"
        return (
            f"point {self.point} at {format_eps(self.eps, None)}: fell in the {found} evaluation alone; "
            f"its image {is_} misclassified (margin {self.margin:.3g})"
        )


@dataclass(frozen=True)
class Agreement:
    """How far two evaluations agree.

    Args:
        share: of the verdicts at all common radii, in [0, 1].
        differing: the others, by radius and then in the order of the points.
    """

    share: float
    differing: list[Differing]


def agreement(model: nn.Module, y: Tensor, first: Evaluation, second: Evaluation) -> Agreement:
    """Compare verdicts; each point on which they differ is classified once more, on the image that was kept of it.

    Kernels round differently for other batch sizes, and a sign amplifies that: a point near its limit may fall in
    one evaluation and not in the other. Its image says which is right.

    Args:
        model: of both, images (n, ...) to logits (n, K).
        y: the points' classes, int64 (N,), in the order in which they were given.
        first, second: of the same points, both with ``keep_images=True``.

    Raises:
        ValueError: of other points, without images, without a common radius.
    """
    radii = sorted(set(first.robust_at) & set(second.robust_at))
    if not torch.equal(first.points, second.points) or len(y) != len(first.points):
        raise ValueError("the evaluations are of other points: give both the same, and their labels")
    if not radii:
        raise ValueError("the evaluations have no radius in common")
    if not first.images_at or not second.images_at:
        raise ValueError("no images were kept: evaluate(..., keep_images=True)")
    differing = []
    with attack_mode(model, probe=first.images_at[radii[0]], fold=False) as ready, torch.no_grad():
        for eps in radii:
            for row in (first.robust_at[eps].cpu() != second.robust_at[eps].cpu()).nonzero()[:, 0].tolist():
                fell_in = int(bool(first.robust_at[eps][row]))
                image = (first, second)[fell_in].images_at[eps][row : row + 1]
                by = float(margin(ready.original(ready.load(image)).cpu(), y[row : row + 1].cpu().long()))
                differing.append(Differing(int(first.points[row]), eps, fell_in, by))
    return Agreement(1 - len(differing) / (len(y) * len(radii)), differing)
