"""``evaluate``: clean and robust accuracy of a model, with all that a reader needs to trust them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attacks.prepare import Progress, prepared, silent
from ..attacks.suite import changed_losses
from ..perturb.pgd import check_images
from .choice import Choice
from .interval import Interval
from .pgd_robustness import as_the_library
from .plan import Plan, Points, run_all
from .record import Record
from .score import Score
from .verdicts import derive

PROBE = 16  # images on which the preparation of the model is checked
Radius = float | Fraction | str


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Args:
        clean: bool (N,), classified correctly as they are.
        robust_at: for each eps, ascending, bool (N,): classified correctly under attack. A point that is
            wrong from the start is not robust.
        scores: a row for clean and one for each eps.
        notes: what a reader should know about the model or the attack, a sentence each.
        images_at: for each eps, (N, ...) such that classifying them gives ``robust_at`` again; empty unless
            images were asked for. Where nothing was found they are the images themselves.
        record: every try at every point; ``point`` is the row in ``x``. Empty under the ``robustness`` protocol.
    """

    clean: Tensor
    robust_at: dict[float, Tensor]
    scores: list[Score]
    notes: list[str] = field(default_factory=list)
    images_at: dict[float, Tensor] = field(default_factory=dict)
    record: Record = field(default_factory=lambda: Record.joined([]))

    @property
    def robust(self) -> Tensor:
        """bool (N,): classified correctly under attack at the largest eps; ValueError if there was no attack."""
        if not self.robust_at:
            raise ValueError("no attack was run, so that nothing is known of robustness")
        return self.robust_at[max(self.robust_at)]

    @property
    def images(self) -> Tensor:
        """(N, ...) attacked images at the largest eps; ValueError if they were not asked for."""
        if not self.images_at:
            raise ValueError("no images were kept: evaluate(..., keep_images=True)")
        return self.images_at[max(self.images_at)]

    @property
    def clean_accuracy(self) -> float:
        """In [0, 1]."""
        return self.scores[0].accuracy

    @property
    def robust_accuracy(self) -> float:
        """In [0, 1], over all N points, at the largest eps."""
        return int(self.robust.sum()) / len(self.robust)

    @property
    def interval(self) -> Interval:
        """The 95% interval of ``robust_accuracy``, or of ``clean_accuracy`` if there was no attack."""
        return self.scores[-1].interval


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "l2",
    eps: Radius | Sequence[Radius] = 0.5,
    attacks: str | Sequence[str] = "pgd",
    protocol: str = "strong",
    steps: int = 100,
    step_size: float | None = None,
    random_start: bool = False,
    share: bool = True,
    seed: int = 0,
    batch_size: int = 256,
    keep_images: bool = False,
    fold: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Classify images as they are and under attack.

    The model is evaluated in eval mode and left as it was found: modes, statistics, ``requires_grad`` and
    ``.grad``. Images go to its device batch by batch. Whatever counts as misclassified was verified by a
    forward pass of the model itself on the image that is kept.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K); normalisation is a layer of it.
        x: images in [0, 1], floating point, (N, C, H, W) or any other (N, ...).
        y: true classes, integers, (N,).
        norm: "l2" or "linf".
        eps: one radius or several, in [0, 1] pixel units: numbers, fractions or strings such as "8/255".
        attacks: "pgd"; AutoAttack's presets "standard", "plus", "rand"; one or several of its attacks
            ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"); "clean" for no attack.
        protocol: of pgd: "strong", or "robustness" for the figure that the library of that name gives.
        steps: of pgd: gradient steps an image, for each loss.
        step_size: of pgd: in [0, 1] pixel units; default 2.5 * eps / steps.
        random_start: of pgd: start from a random point of the ball (strong only) instead of from the image.
        share: at a larger eps, do not attack again what fell at a smaller one (not under ``robustness``).
        seed: of all that is random.
        batch_size: images a batch at most. The verdicts of the ``robustness`` protocol depend on it.
        keep_images: keep the attacked images.
        fold: attack a faster copy of the model, batch norm folded into the convolutions, where that is the same
            function (it is checked); verdicts come from the model itself.
        progress: called as ``progress(done, total, what)`` after every iteration; ``total`` belongs to ``what``.

    Raises:
        TypeError: images that are not floating point, a model that does not return a tensor.
        ValueError: anything out of range, an unknown name, labels that do not fit the logits, logits that are NaN.
    """
    radii = sorted({radius(e) for e in (eps if isinstance(eps, Iterable) and not isinstance(eps, str) else [eps])})
    if not radii:
        raise ValueError("eps must be one radius or more, got none")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    names = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    choice = Choice(names, norm, protocol, steps, step_size, random_start)
    at = {e: choice.at(e) for e in radii}
    check_images(x, y)
    x, y = x.detach(), y.detach().to(x.device).long()
    report = progress or silent
    with prepared(model, probe=x[:PROBE] if fold else None) as ready:
        points = Points(ready, x, y, np.arange(len(x)), Plan(at, seed, batch_size, share=share))
        record, images = run_all(points, report, keep_images)
        verdicts = derive(record, points.ids, points.plan.stages, share)
        notes = [*ready.notes, *changed_losses(at[radii[0]], points.classes)]
        robust = {e: torch.as_tensor(verdicts.robust(e)).to(x.device) for e in at if at[e]}
        scores = [Score("clean", len(x), int(verdicts.clean.sum()), batch_size=min(batch_size, len(x)))]
        scores += [choice.score(e, verdicts, record, seed, batch_size) for e in robust]
        if choice.literal:
            attacked = [as_the_library(ready, choice.pgd(e), x, y, batch_size, keep_images, report) for e in radii]
            robust = {e: each.robust for e, each in zip(radii, attacked, strict=True)}
            images = {e: each.images for e, each in zip(radii, attacked, strict=True) if each.images is not None}
            scores += [each.score for each in attacked]
    if lost := sum(score.non_finite for score in scores):
        notes.append(f"{lost} gradient steps were not taken because the gradient was not finite")
    return Evaluation(torch.as_tensor(verdicts.clean).to(x.device), robust, scores, notes, images, record)


def radius(eps: Any) -> float:
    """``eps`` as a number; strings such as "8/255" are understood, others raise ValueError."""
    try:
        return float(Fraction(eps)) if isinstance(eps, str) else float(eps)
    except (ValueError, ZeroDivisionError, TypeError):
        raise ValueError(f"eps must be a number or a fraction such as '8/255', got {eps!r}") from None
