"""``evaluate``: clean and robust accuracy of a model, with all that a reader needs to trust them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from ..attacks.prepare import Progress, prepared, silent
from ..perturb.pgd import check_images
from .clean import correct
from .interval import Interval
from .pgd import Sweep
from .score import Score

ATTACKS = ("clean", "pgd")
Radius = float | Fraction | str


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Args:
        clean: bool (N,), classified correctly as they are.
        robust_at: for each eps, ascending, bool (N,): classified correctly under attack. A point that is
            wrong from the start is not robust.
        scores: a row for clean and one for each attack and eps.
        notes: what a reader should know about the model or the attack, a sentence each.
        images_at: for each eps, (N, ...) such that classifying them gives ``robust_at`` again; empty unless
            images were asked for. Where the strong protocol found nothing they are the images themselves.
    """

    clean: Tensor
    robust_at: dict[float, Tensor]
    scores: list[Score]
    notes: list[str] = field(default_factory=list)
    images_at: dict[float, Tensor] = field(default_factory=dict)

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
    progress: Progress | None = None,
) -> Evaluation:
    """Classify images as they are and under attack.

    The model is evaluated in eval mode and left as it was found: modes, statistics, ``requires_grad`` and
    ``.grad``. Images go to its device batch by batch.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K); normalisation is a layer of it.
        x: images in [0, 1], floating point, (N, C, H, W) or any other (N, ...).
        y: true classes, integers, (N,).
        norm: "l2" or "linf".
        eps: one radius or several, in [0, 1] pixel units: numbers, fractions or strings such as "8/255".
        attacks: "pgd", or "clean" for no attack; one or several.
        protocol: "strong", or "robustness" for the figure that the library of that name gives.
        steps: gradient steps an image, for each loss.
        step_size: in [0, 1] pixel units; default 2.5 * eps / steps.
        random_start: start from a random point of the ball (strong only) instead of from the image.
        share: at a larger eps, do not attack again what fell at a smaller one (strong only).
        seed: of the random start.
        batch_size: images a batch at most. The verdicts of the ``robustness`` protocol depend on it.
        keep_images: keep the attacked images.
        progress: called as ``progress(done, total, what)`` after every iteration; ``total`` belongs to ``what``.

    Raises:
        TypeError: images that are not floating point, a model that does not return a tensor.
        ValueError: anything out of range, an unknown name, labels that do not fit the logits, logits that are NaN.
    """
    asked = [attacks] if isinstance(attacks, str) else list(attacks)
    if unknown := [name for name in asked if name not in ATTACKS]:
        raise ValueError(f"unknown attack {unknown[0]!r}; known: {', '.join(ATTACKS)}")
    radii = list(eps) if isinstance(eps, Iterable) and not isinstance(eps, str) else [eps]
    sweep = Sweep(
        norm, [radius(e) for e in radii], protocol, steps, step_size, random_start, share, seed, batch_size
    )  # fmt: skip
    check_images(x, y)
    y = y.detach().to(x.device).long()
    report = progress or silent
    with prepared(model) as ready:
        clean = correct(ready, x, y, batch_size=batch_size, progress=report)
        scores = [Score("clean", len(x), int(clean.sum()), batch_size=min(batch_size, len(x)))]
        attacked = sweep.run(ready, x, y, clean, keep_images=keep_images, progress=report) if "pgd" in asked else {}
    scores += [result.score for result in attacked.values()]
    non_finite = sum(score.non_finite for score in scores)
    notes = [*ready.notes]
    if non_finite:
        notes.append(f"{non_finite} gradient steps were not taken because the gradient was not finite")
    return Evaluation(
        clean,
        {e: result.robust for e, result in attacked.items()},
        scores,
        notes,
        {e: result.images for e, result in attacked.items() if result.images is not None},
    )


def radius(eps: Any) -> float:
    """``eps`` as a number; strings such as "8/255" are understood, others raise ValueError."""
    try:
        return float(Fraction(eps)) if isinstance(eps, str) else float(eps)
    except (ValueError, ZeroDivisionError, TypeError):
        raise ValueError(f"eps must be a number or a fraction such as '8/255', got {eps!r}") from None
