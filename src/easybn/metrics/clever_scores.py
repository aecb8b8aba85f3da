"""From gradient maxima to CLEVER scores: fits, intervals, what they are called, and the scores of several images."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..perturb.eps import format_eps
from ..stats import median_interval
from .intervals import mean_interval
from .reverse_weibull import ROUNDING, Array, fit, goodness

POOR = 0.05
"""Of the p of Kolmogorov and Smirnov's test: below, the paper rejects the distribution."""
STATUSES = {
    "fitted": "the location of the fitted distribution",
    "poor fit": f"the location of a distribution that does not fit (p below {POOR:g})",
    "at largest": "the largest norm seen: the distribution ends there",
    "endless": "uncertain: the likeliest distribution has no end, and only the penalty of its shape gives it one",
    "constant": "the norm itself: it is the same everywhere, as in a linear model",
    "zero gradient": "0: the gradient vanished at every point, which tells nothing",
    "not finite": "unknown: a gradient was not finite",
    "misclassified": "not estimated: the image is wrong as it is",
}
"""What the estimated Lipschitz constant is, by status."""


@dataclass(frozen=True)
class TargetScore:
    """The score of one image for one target class.

    Args:
        point: id of the image; target: the class.
        margin: logit of the predicted class less that of the target, at the image.
        lipschitz: the estimate of how fast that difference changes at most, in logits per [0, 1] pixel unit.
        largest: the largest gradient norm seen; the true constant is at least that.
        shape: of the fitted distribution, NaN without one.
        ks, p: distance of the maxima from the fitted distribution, and its p; NaN without one.
        score: margin / lipschitz, at most the radius.
        low, high: the ends of its 95% interval, by resampling the maxima: not for what no point has seen.
        status: how the Lipschitz constant was found, a key of :data:`STATUSES`.
        capped: margin / lipschitz exceeds the radius: the score is the radius, and says "at least".
    """

    point: int
    target: int
    margin: float
    lipschitz: float
    largest: float
    shape: float
    ks: float
    p: float
    score: float
    low: float
    high: float
    status: str
    capped: bool


@dataclass(frozen=True)
class PointScore:
    """The untargeted score of one image: the least over its targets.

    Args:
        point, target: id of the image and the class of least score; -1 for an image that is misclassified as it is.
        score, low, high, status, capped: as of :class:`TargetScore`; 0 for an image that is misclassified.
        distance: of an adversarial image that was found, in the same norm; infinite if none was, NaN if none was
            looked for.
    """

    point: int
    target: int
    score: float
    low: float
    high: float
    status: str
    capped: bool
    distance: float = float("nan")

    @property
    def exceeds(self) -> bool:
        """Whether an adversarial image is nearer than the score: the estimate is too high here."""
        return self.score > self.distance * (1 + ROUNDING)


@dataclass(frozen=True)
class CleverScores:
    """The scores of N images.

    Args:
        norm, radius: of the ball, in [0, 1] pixel units.
        maxima, samples: how many maxima, each of how many points.
        points: untargeted, one for each image.
        targets: one for each image that is classified correctly and each of its targets.
    """

    norm: str
    radius: float
    maxima: int
    samples: int
    points: Sequence[PointScore]
    targets: Sequence[TargetScore] = field(repr=False)

    def with_distances(self, distances: Sequence[float] | NDArray[np.float64] | Tensor) -> "CleverScores":
        """The same, beside the distances (N,) of adversarial images in the same norm; infinite where none is known.

        Such as the least ``distance`` of a point in the record of an evaluation that attacked by FAB.

        Raises:
            ValueError: another number of distances.
        """
        known = [float(distance) for distance in distances]
        if len(known) != len(self.points):
            raise ValueError(f"{len(known)} distances for {len(self.points)} images")
        both = zip(self.points, known, strict=True)
        return replace(self, points=[replace(point, distance=distance) for point, distance in both])

    def summary(self) -> dict[str, Any]:
        """Over the images that are classified correctly: mean and median with 95% intervals for the draw of images.

        Returns:
            images, misclassified; mean, median (NaN without an image) and their ends mean_low and so on (None where
            there are too few images); mean_distance and compared, the mean distance of the adversarial images that
            were found and how many, and exceeding, how many of them are nearer than the score; capped; and statuses,
            a count by status.
        """
        scored = [point for point in self.points if point.status != "misclassified"]
        row: dict[str, Any] = {"images": len(scored), "misclassified": len(self.points) - len(scored)}
        row |= dict.fromkeys(("mean", "median"), float("nan"))
        row |= dict.fromkeys(("mean_low", "mean_high", "median_low", "median_high"))
        if scored:
            scores = [point.score for point in scored]
            row["mean"], row["mean_low"], row["mean_high"] = mean_interval(torch.tensor(scores))
            row["median"], *ends = median_interval(scores)
            if all(map(math.isfinite, ends)):
                row["median_low"], row["median_high"] = ends
        known = [point for point in scored if math.isfinite(point.distance)]
        return row | {
            "mean_distance": fmean(point.distance for point in known) if known else float("nan"),
            "compared": len(known),
            "exceeding": sum(point.exceeds for point in known),
            "capped": sum(point.capped for point in scored),
            "statuses": dict(Counter(point.status for point in scored)),
        }

    def __str__(self) -> str:
        """Mean and median, and what speaks against them, a line each."""
        row = self.summary()
        radius = format_eps(self.radius, self.norm)
        ends = "" if row["mean_low"] is None else f" (95%: {row['mean_low']:.4g} to {row['mean_high']:.4g})"
        lines = [
            f"CLEVER {self.norm}: mean {row['mean']:.4g}{ends}, median {row['median']:.4g}, {row['images']:,} images; "
            f"{self.maxima:,} maxima of {self.samples:,} points each within {radius}"
        ]
        too_high = "an estimate that can be too high, not a bound"
        if row["compared"]:
            too_high += (
                f": on {row['exceeding']:,} of {row['compared']:,} images it exceeds the distance of an adversarial "
                f"image that was found (mean distance {row['mean_distance']:.4g})"
            )
        lines.append(too_high)
        if row["capped"]:
            lines.append(f"{row['capped']:,} scores are the radius {radius}, which they exceed")
        lines += [
            f"{count:,} scores by a Lipschitz constant that is {STATUSES[status]}"
            for status, count in row["statuses"].items()
            if status != "fitted"
        ]
        if row["misclassified"]:
            lines.append(f"{row['misclassified']:,} images are misclassified as they are, and have no score")
        return "\n".join(lines)


def image_scores(
    name: int, targets: list[int], margins: Array, largest: Array, which: NDArray[np.int64], radius: float
) -> tuple[list[TargetScore], PointScore]:
    """The score for each target, and the least of them; with intervals from the same resamples.

    Args:
        margins: (T,); largest: (T, maxima); which: (R, maxima), the maxima that each resample has.
    """
    scores, drawn_scores = [], []
    for target, margin, maxima in zip(targets, margins, largest, strict=True):
        score, drawn = _score(name, target, float(margin), maxima, maxima[which], radius)
        scores.append(score)
        drawn_scores.append(drawn)
    least = min(scores, key=lambda score: score.score)
    low, high = np.quantile(np.min(drawn_scores, 0), (0.025, 0.975))
    low, high = min(float(low), least.score), max(float(high), least.score)
    return scores, PointScore(name, least.target, least.score, low, high, least.status, least.capped)


def _score(
    name: int, target: int, margin: float, maxima: Array, resampled: Array, radius: float
) -> tuple[TargetScore, Array]:
    """The score for one target, and those of the resamples (R, maxima)."""
    largest, shape, ks, p = float(maxima.max()), np.nan, np.nan, np.nan
    lipschitz, drawn = largest, np.full(len(resampled), largest)
    if not np.isfinite(largest):
        status, lipschitz = "not finite", np.inf
        drawn = np.full(len(resampled), np.inf)
    elif largest == 0:
        status = "zero gradient"
    elif largest - maxima.min() <= ROUNDING * largest:
        status = "constant"
    else:
        found = fit(np.concatenate([maxima[None], resampled]))
        lipschitz, scale, shape = (float(column[0]) for column in found[:3])
        drawn = np.maximum(found.location[1:], largest)  # what was seen is a bound that a resample may not know of
        ks, p = goodness(maxima, lipschitz, scale, shape)
        status = "at largest" if lipschitz == largest else "poor fit" if p < POOR else "fitted"
        if status == "fitted" and np.isinf(fit(maxima[None], penalty=0.0).location[0]):
            status = "endless"
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = float(np.float64(margin) / lipschitz)
        scores = np.minimum(np.float64(margin) / drawn, radius)
    score = min(reach, radius)
    low, high = (float(end) for end in np.quantile(scores, (0.025, 0.975)))
    row = TargetScore(
        name, target, margin, float(lipschitz), largest, shape, ks, p, score, min(low, score), max(high, score),
        status, reach > radius,
    )  # fmt: skip
    return row, scores
