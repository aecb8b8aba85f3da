"""CLEVER scores of a few images, beside the distances of adversarial images that were found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..progress import OnProgress, silent
from ..stats import accuracy_interval
from .clever import clever
from .clever_scores import CleverScores
from .instrument import Instrument, Measured, Plot, Subject
from .intervals import mean_interval

SCORE, TOO_HIGH, ODD = "clever", "too_high", "odd_fits"
MEAN = "mean CLEVER score"


@dataclass(frozen=True)
class Clever(Instrument):
    """CLEVER scores (:mod:`easybn.metrics.clever`) of images that are classified correctly, of the deployed network.

    By default 50 maxima of 64 points each for 3 targets an image, about a hundred seconds of a core for 20 images of
    28 pixels and ``resnet_tiny``. The paper's settings, ``maxima: 500, samples: 1024, targets: 0``, take 400 times as
    long.

    Args:
        l2, linf, l1: radius of the ball in each norm, in [0, 1] pixel units; 0 to leave the norm out.
        maxima: how many largest gradient norms, at least 10; samples: points of which each is the largest.
        targets: classes scored for each image, the nearest by the linear model at the image; 0 for all others.
        search: iterations of FAB for each class, in search of adversarial images; 0 for none.
    """

    l2: float = 3.0
    linf: float = 0.1
    l1: float = 0.0
    maxima: int = 50
    samples: int = 64
    targets: int = 3
    search: int = 50
    name: ClassVar[str] = "clever"
    title: ClassVar[str] = "CLEVER scores"
    reads: ClassVar[str] = (
        "How far images are estimated to be from another class (Weng et al. 2018): margin over the gradient norm that "
        "random points around the image suggest. An estimate that can be too high, not a bound: beside it the distance "
        "of adversarial images that FAB found, and how often these are nearer. Intervals are over images."
    )
    order: ClassVar[int] = 40
    images: ClassVar[int] = 20
    plots: ClassVar[Sequence[Plot]] = (
        Plot(SCORE, "distance to another class, in [0, 1] pixel units", x="", y="distance", joined=False),
        Plot(TOO_HIGH, "score above the distance of a found adversarial", x="", y="images", percent=True, joined=False),
        Plot(ODD, "scores without a good fit", x="", y="images", percent=True, joined=False, folded=True),
    )

    def __post_init__(self) -> None:
        for name, least in (
            ("l2", 0),
            ("linf", 0),
            ("l1", 0),
            ("maxima", 10),
            ("samples", 1),
            ("targets", 0),
            ("search", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"clever: {name} must be at least {least}, got {getattr(self, name):g}")
        if not self.radii:
            raise ValueError("clever: a radius above 0 in one norm at least")

    @property
    def radii(self) -> dict[str, float]:
        """By norm, without those left out."""
        return {norm: radius for norm in ("l2", "linf", "l1") if (radius := getattr(self, norm)) > 0}

    def measure(self, subject: Subject, on_progress: OnProgress = silent) -> list[Measured]:
        batches = list(subject.batches())
        ids, x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return [
            each
            for norm, radius in self.radii.items()
            for each in self._values(self._scores(subject, ids, x, y, norm, radius, on_progress))
        ]

    def _scores(
        self, subject: Subject, ids: Tensor, x: Tensor, y: Tensor, norm: str, radius: float, on_progress: OnProgress
    ) -> CleverScores:
        return clever(
            subject.model, x, y, norm=norm, radius=radius, maxima=self.maxima, samples=self.samples,
            targets=self.targets or None, search=self.search, seed=subject.seed, batch_size=subject.batch_size, ids=ids,
            progress=on_progress,
        )  # fmt: skip

    def _values(self, scores: CleverScores) -> list[Measured]:
        row = scores.summary()
        if not (n := row["images"]):
            raise ValueError("clever scores images that are classified correctly, and there is none: take more images")
        detail = {"radius": scores.radius, "capped": row["capped"], "misclassified": row["misclassified"]}
        detail |= {"statuses": row["statuses"]}

        def share(measure: str, count: int, of: int) -> Measured:
            low, high = accuracy_interval(count, of)
            return Measured(measure, scores.norm, "share of images", 0, of, count / of, low, high)

        mean = row["mean"], row["mean_low"], row["mean_high"]
        found = [Measured(SCORE, scores.norm, MEAN, 0, n, *mean, detail)]
        median = row["median"], row["median_low"], row["median_high"]
        found.append(Measured(SCORE, scores.norm, "median CLEVER score", 1, n, *median))
        if compared := row["compared"]:
            known = [p.distance for p in scores.points if p.status != "misclassified" and p.distance < float("inf")]
            far = mean_interval(torch.tensor(known))
            found.append(Measured(SCORE, scores.norm, "mean distance of found adversarials", 2, compared, *far))
            found.append(share(TOO_HIGH, row["exceeding"], compared))
        return [*found, share(ODD, n - row["statuses"].get("fitted", 0) - row["statuses"].get("constant", 0), n)]

    @classmethod
    def sentence(cls, measured: Mapping[str, Sequence[Measured]]) -> str:
        shares = [each for values in measured.values() for each in values if each.measure == TOO_HIGH]
        count, n = sum(round(each.value * each.n) for each in shares), sum(each.n for each in shares)
        means = {label: [each for each in values if each.place == MEAN] for label, values in measured.items()}
        parts = [super().sentence(means)]
        if n:
            parts.append(
                f"These are estimates, not bounds: {count:,} of {n:,} scores exceed the distance of an adversarial "
                "image that was found."
            )
        return " ".join(filter(None, parts))
