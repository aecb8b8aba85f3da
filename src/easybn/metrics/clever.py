"""CLEVER: how far an image is estimated to be from another class, from the gradients around it (Weng et al., 2018).

Where ``g = z_c - z_j``, the logit of the predicted class less that of a target, is positive at x and does not change
faster than L within a ball around x, g stays positive up to the distance ``g(x) / L``. L, the local Lipschitz constant,
is the largest dual norm of g's gradient in the ball. It is not known: CLEVER takes the largest norms among many random
points, many times, and extrapolates them by a reverse Weibull distribution, whose location is the estimate of L.

**It is an estimate, never a bound.** Random points miss what is steep in small places, above all in many dimensions,
and an image can well have an adversarial example that is nearer than its score (Goodfellow, "Gradient masking causes
CLEVER to overestimate adversarial perturbation size", 2018). Where one is known,
:attr:`~easybn.metrics.clever_scores.PointScore.exceeds` says so.

Each maximum is of points of its own. Points are uniform in the ball and clipped to [0, 1], as in the authors' code:
the box and the ball are convex and hold every adversarial image there is, so that the argument holds for what is in
both.
"""

import torch
from torch import Tensor, nn

from ..attacks.attack_mode import TargetModel, attack_mode
from ..attacks.fab import FAB
from ..attacks.runner import AttackRunner
from ..keyed_random import Noise
from ..perturb.ball import L2, Linf
from ..perturb.pgd import check_images
from ..progress import OnProgress, silent
from .clever_scores import CleverScores, PointScore, TargetScore, image_scores
from .gradient_maxima import gradient_maxima, gradient_norms

RADII = {"linf": 0.1, "l2": 3.0, "l1": 30.0}
"""Of the balls of the authors' code, in [0, 1] pixel units."""
CANDIDATES = 10
"""Classes among which the nearest targets are looked for, those of largest logit: a gradient each, at the image."""


def clever(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "l2",
    radius: float | None = None,
    maxima: int = 500,
    samples: int = 1024,
    targets: int | Tensor | None = None,
    resamples: int = 200,
    search: int = 100,
    seed: int = 0,
    batch_size: int = 128,
    ids: Tensor | None = None,
    progress: OnProgress = silent,
) -> CleverScores:
    """The CLEVER scores of images, in eval mode; the model is left as it was.

    It takes ``maxima * samples`` forward passes an image, and a backward pass for each of them and each target: half a
    million with the paper's settings, which are the defaults.

    Args:
        model: images (N, ...) in [0, 1] to logits (N, K).
        x: images in [0, 1], (N, ...); y: true classes, int64 (N,).
        norm: "linf", "l2" or "l1", of the ball; gradients are measured in the dual norm.
        radius: of the ball, in [0, 1] pixel units; by default :data:`RADII`. No score is larger.
        maxima: how many, at least 10; samples: points of which each is the largest.
        targets: all other classes, by default; or that many, those that the linear model at the image has nearest, of
            the ten with the largest logits; or int64 (N, T), the classes to score.
        resamples: of the maxima, for the intervals.
        search: iterations of FAB for each class, which looks for adversarial images, whose distances are kept beside
            the scores (of l1: of those that it finds in l2); 0 for none.
        seed: of all that is random. ids: int64 (N,), the images' names in it; by default 0 .. N - 1.
        batch_size: points a pass; scores depend on it by rounding only.

    Raises:
        ValueError: anything out of range; a model without gradient; logits that are not finite.
    """
    _check(norm, maxima=maxima, samples=samples, resamples=resamples, search=search, batch_size=batch_size)
    radius = RADII[norm] if radius is None else float(radius)
    if not 0 < radius < float("inf"):
        raise ValueError(f"the radius must be a positive number, got {radius:g}")
    check_images(x, y)
    ids = torch.arange(len(x)) if ids is None else ids.cpu()
    with attack_mode(model, probe=x) as target_model:
        if target_model.call.no_gradient:
            raise ValueError(f"CLEVER needs the gradient of the model: {target_model.call.no_gradient}")
        with torch.no_grad():
            logits = torch.cat(
                [target_model.original(target_model.load(part)).double() for part in torch.split(x, 256)]
            )
        if not logits.amax(1).isfinite().all():
            raise ValueError("the model's logits are not finite for some image")
        label = y.to(logits.device)
        classes = _targets(target_model, x, logits, label, targets, norm)
        points: list[PointScore] = []
        of_targets: list[TargetScore] = []
        for i in range(len(x)):
            progress(i + 1, len(x), f"CLEVER {norm}")
            if int(logits[i].argmax()) != int(label[i]):
                points.append(PointScore(int(ids[i]), -1, 0.0, 0.0, 0.0, "misclassified", False, 0.0))
                continue
            margins = logits[i, label[i]] - logits[i, classes[i]]
            noise = Noise.of(seed, f"clever/{norm}", ids[i : i + 1])
            largest = gradient_maxima(
                target_model, x[i], int(label[i]), classes[i].tolist(), noise, norm=norm, radius=radius, maxima=maxima,
                samples=samples, batch_size=batch_size,
            )  # fmt: skip
            which = Noise.of(seed, "clever/resamples", ids[i : i + 1]).integers(maxima, resamples, maxima)[0]
            of_image, untargeted = image_scores(
                int(ids[i]), classes[i].tolist(), margins.cpu().numpy(), largest.numpy(), which.numpy(), radius
            )
            of_targets += of_image
            points.append(untargeted)
        scores = CleverScores(norm, radius, maxima, samples, points, of_targets)
        if not search:
            return scores
        return scores.with_distances(_found(target_model, x, label, logits, ids, norm, search))


LEAST = {"maxima": 10, "samples": 1, "resamples": 20, "search": 0, "batch_size": 1}


def _check(norm: str, **counts: int) -> None:
    if norm not in RADII:
        raise ValueError(f"the norm must be one of {', '.join(RADII)}, got {norm!r}")
    for name, count in counts.items():
        if count < LEAST[name]:
            raise ValueError(f"{name} must be at least {LEAST[name]}, got {count}")


def _targets(
    model: TargetModel, x: Tensor, logits: Tensor, label: Tensor, targets: int | Tensor | None, norm: str
) -> Tensor:
    """(N, T) int64: the classes to score."""
    n, k = logits.shape
    if isinstance(targets, Tensor):
        chosen = targets.to(logits.device)
        if chosen.dim() != 2 or len(chosen) != n or chosen.is_floating_point() or not chosen.shape[1]:
            raise ValueError(f"targets must be classes ({n}, T), got {tuple(chosen.shape)} in {chosen.dtype}")
        if ((chosen < 0) | (chosen >= k) | (chosen == label[:, None])).any():
            raise ValueError(f"targets must be in 0 .. {k - 1}, and none of them the image's own class")
        return chosen
    if targets is not None and targets < 1:
        raise ValueError(f"at least one target, got {targets}")
    others = _others(logits, label)
    if targets is None or targets >= k - 1:
        return others.sort(1).values
    candidates = others[:, : max(targets, CANDIDATES)]
    norms = torch.stack([
        gradient_norms(model, model.load(x[i : i + 1]), int(label[i]), candidates[i].tolist(), norm)[:, 0]
        for i in range(n)
    ]).to(logits)  # fmt: skip
    margins = logits.gather(1, label[:, None]) - logits.gather(1, candidates)
    nearest = (margins / norms).nan_to_num(nan=torch.inf).argsort(dim=1, stable=True)[:, :targets]
    return candidates.gather(1, nearest).sort(1).values


def _others(logits: Tensor, label: Tensor) -> Tensor:
    """(N, K - 1) int64: the other classes, the one of largest logit first."""
    return logits.scatter(1, label[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)[:, 1:]


# Beside the scores: how near adversarial images are that FAB finds.


def _found(
    model: TargetModel, x: Tensor, label: Tensor, logits: Tensor, ids: Tensor, norm: str, iterations: int
) -> list[float]:
    """For each image the distance of an adversarial image, 0 where it is misclassified as it is."""
    right = (logits.argmax(1) == label).cpu()
    distances = [0.0] * len(x)
    if right.any():
        rows = right.nonzero()[:, 0]
        ball = Linf(1e-6) if norm == "linf" else L2(1e-6)  # so small that the search goes on to its end
        ranking = _others(logits, label).cpu()
        there = rows.to(x.device)
        result = AttackRunner(
            model, FAB(ball, iterations=iterations), x[there], label.cpu()[rows], ids[rows], ranking[rows]
        ).run()
        far = result.best_distance
        if norm == "l1":
            moved = (result.images.double() - x[there].cpu().double()).flatten(1).abs().sum(1)
            far = moved.where(far.isfinite(), far)
        for row, distance in zip(rows.tolist(), far.tolist(), strict=True):
            distances[row] = distance
    return distances
