"""``evaluate_corruptions``: accuracy under the 15 common corruptions at five severities, and its mean, mCA.

mCA is the mean of the accuracies under all 75 kinds and severities (1 - mCA is the unnormalised mean corruption error
that is usual for CIFAR-10-C; the mCE of ImageNet-C divides by AlexNet's errors). All of them share their points, and
answers about one point are alike: intervals of means count every point once, see
:func:`easybn.stats.repeated_interval`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attacks.attack import misclassified
from ..attacks.attack_mode import TargetModel, attack_mode
from ..data.corruptions import CORRUPTIONS, SEVERITIES, check_shape, corrupt
from ..json_files import Damaged, Row
from ..modes import is_sharded
from ..perturb.pgd import check_images
from ..progress import OnProgress, silent
from ..stats import Interval, accuracy_interval, repeated_interval
from .config import POINTS, EvaluateConfig
from .points import check_labels
from .verdicts import unpack_bits

SOURCES = ("auto", "generated", "published")
PROBE = 16  # images on which it is found out how the model takes them
FROST = "the texture of frost is drawn: the published corruption blends photographs"
Corrupted = Callable[[str, int, Tensor], Tensor]
"""From a kind, a severity and rows (int64, (B,)) to the corrupted images of these rows, (B, C, H, W) in [0, 1]."""


@dataclass(frozen=True)
class CorruptionConfig:
    """All that decides what an evaluation under corruptions measures.

    Args:
        source: "generated" for corruptions made here (:mod:`easybn.data.corruptions`); "published" for the files of
            CIFAR-10-C or its kin (:mod:`easybn.data.published_corruptions`); "auto" for the published ones where they
            are found, else generated.
        folder: of the published files; by default they are searched for.
        points: test images, drawn by ``seed``; by default 1000.
        seed: of the draw of the points, and of the generated corruptions.
        batch_size: images a pass.
        branch: of a converted model.
        device: where a run is evaluated; the CPU by default.

    Raises:
        ValueError: an unknown source, a number out of range; a folder of published files for generated ones.
    """

    source: str = "auto"
    folder: str | None = None
    points: int | None = None
    seed: int = 0
    batch_size: int = 256
    branch: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"unknown source of corruptions {self.source!r}; known: {', '.join(SOURCES)}")
        if self.source == "generated" and self.folder is not None:
            raise ValueError("a folder of published corruptions does not go with generated ones: leave one of both out")
        for name in ("points", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def asked(self) -> int:
        """How many points are asked for."""
        return self.points or POINTS

    @property
    def description(self) -> dict[str, Any]:
        """What changes the rows it gives, as JSON can hold it; what is at its default is left out."""
        usual = CorruptionConfig()
        names = ("source", "points", "seed", "branch")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(usual, name)}
        return {"class": "Corruptions", **changed}

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the description."""
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def __str__(self) -> str:
        branch = [] if self.branch is None else [f"branch {self.branch}"]
        return " ".join(["corruptions", *([] if self.source == "auto" else [self.source]), *branch])


AnyConfig = EvaluateConfig | CorruptionConfig


@dataclass(frozen=True, repr=False)
class CorruptionEvaluation:
    """What :func:`evaluate_corruptions` found.

    Args:
        clean: bool (n,), classified correctly as they are; None if these are other images.
        right: for each (kind, severity) bool (n,), classified correctly when corrupted so.
        notes: what a reader should know, a sentence each.
    """

    clean: Tensor | None
    right: Mapping[tuple[str, int], Tensor]
    notes: Sequence[str] = field(default=())

    def _counted(self, kind: str | None, severity: int | None) -> Tensor:
        """int64 (m, n): 0 or 1 for each of the m corruptions that are meant, and each point."""
        chosen = [
            right
            for (name, at_severity), right in self.right.items()
            if kind in (None, name, CORRUPTIONS[name].group) and severity in (None, at_severity)
        ]
        if not chosen:
            raise ValueError(f"there is no {kind or 'corruption'} at severity {severity or 'any'} among the results")
        return torch.stack(chosen).long()

    def accuracy(self, kind: str | None = None, severity: int | None = None) -> float:
        """The mean accuracy, in [0, 1], over all kinds and severities that are meant; by default mCA.

        Args:
            kind: or one of the groups noise, blur, weather and digital.
        """
        return float(self._counted(kind, severity).double().mean())

    def interval(self, kind: str | None = None, severity: int | None = None) -> Interval:
        """The 95% interval of :meth:`accuracy`, for points drawn like these."""
        counted = self._counted(kind, severity)
        return repeated_interval(counted.sum(0).tolist(), len(counted))

    @property
    def mean_accuracy(self) -> float:
        """mCA: the mean over all kinds and severities, in [0, 1]."""
        return self.accuracy()

    @property
    def clean_accuracy(self) -> float | None:
        """Of the same points as they are, in [0, 1]; None if it is not known."""
        return None if self.clean is None else float(self.clean.double().mean())

    def __repr__(self) -> str:
        """mCA with its interval, clean accuracy, and every kind with its severities, a line each."""
        points = len(next(iter(self.right.values())))
        lines = [corruption_headline(self.mean_accuracy, self.interval(), points)]
        if self.clean is not None:
            correct = int(self.clean.sum())
            low, high = (100 * end for end in accuracy_interval(correct, points))
            lines.append(f"clean accuracy: {100 * correct / points:.1f}% (95%: {low:.1f} to {high:.1f})")
        for kind in dict.fromkeys(kind for kind, _ in self.right):
            each = " ".join(f"{100 * self.accuracy(kind, s):.1f}" for of, s in self.right if of == kind)
            lines.append(f"{kind}: {100 * self.accuracy(kind):.1f}% ({each})")
        return "\n".join([*lines, *(f"note     {note}" for note in self.notes)])


def corruption_headline(mean: float, interval: Interval, points: int, total: int | None = None) -> str:
    """``mean corruption accuracy (mCA): 71.2% (95%: 68.9 to 73.4), 1,000 of 10,000 points``"""
    low, high = (100 * end for end in interval)
    of = f" of {total:,}" if total is not None and total > points else ""
    return f"mean corruption accuracy (mCA): {100 * mean:.1f}% (95%: {low:.1f} to {high:.1f}), {points:,}{of} points"


Known = Mapping[tuple[str, int], Tensor]


def verdicts_in(rows: Sequence[Row], where: str) -> dict[tuple[str, int], Tensor]:
    """By kind and severity, bool (n,): the verdicts that rows of corruptions.jsonl keep, about the same points each.

    Args:
        where: what an error names.

    Raises:
        Damaged: a row has verdicts about another number of points.
    """
    found = {}
    for row in rows:
        corruption = f"{row['corruption']} {row['severity']}"
        try:
            right = torch.from_numpy(unpack_bits(row["right"], row["n"]))
        except ValueError as error:
            raise Damaged(f"{where} is damaged: verdicts of {corruption}: {error}: delete it") from error
        if len(right) != rows[0]["n"] or int(right.sum()) != row["correct"]:
            raise Damaged(f"{where} is damaged: the verdicts of {corruption} are not as many as it says: delete it")
        found[row["corruption"], row["severity"]] = right
    return found


def evaluate_corruptions(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    kinds: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    ids: Tensor | None = None,
    corrupted: Corrupted | None = None,
    paired: bool = True,
    batch_size: int = 256,
    known: Known | None = None,
    on_kind: Callable[[str, Known], object] | None = None,
    progress: OnProgress | None = None,
) -> CorruptionEvaluation:
    """Classify images as they are and under common corruptions.

    The model is evaluated in eval mode and left as it was found.

    Args:
        model: images (N, C, H, W) in [0, 1] to logits (N, K).
        x: grey or RGB images in [0, 1], (N, C, H, W), floating point, at least 8 x 8 pixels.
        y: true classes, integers, (N,).
        kinds: of :data:`easybn.data.corruptions.CORRUPTIONS`; severities: of 1 .. 5.
        seed: of the corruptions; ids: int64 (N,), the points' names in the keys of random numbers, by default
            0 .. N - 1: a point is corrupted in the same way whichever others are there.
        corrupted: corrupted images from elsewhere, such as those of
            :class:`easybn.data.published_corruptions.PublishedCorruptions`; by default they are made of ``x``.
        paired: whether ``x`` are the images that were corrupted; if not, they are not classified, and only show how
            images look, and ``y`` are the classes of the corrupted ones.
        batch_size: images a pass.
        known: results of an earlier call, by (kind, severity), that are not computed again.
        on_kind: called with every kind that was computed, and its results by (kind, severity).
        progress: called as ``progress(done, total, what)`` after every batch.

    Raises:
        TypeError: images that are not floating point; a model that does not return a tensor (a ValueError too).
        ValueError: anything out of range; labels that do not fit the logits; a model that fails.
    """
    if is_sharded(model):
        raise ValueError("the model's parameters are split over processes: gather them, and evaluate a plain model")
    check_images(x, y)
    check_shape(tuple(x.shape[1:]))
    for kind in kinds:
        if kind not in CORRUPTIONS:
            raise ValueError(f"unknown corruption {kind!r}; known: {', '.join(CORRUPTIONS)}")
    if not kinds or not severities or not {*severities} <= {*SEVERITIES}:
        raise ValueError(f"kinds must be named, and severities among 1 .. 5, got {list(kinds)} and {list(severities)}")
    x, y, known = x.detach(), y.detach().cpu().long(), dict(known or {})
    names = torch.arange(len(x)) if ids is None else ids.cpu()
    report, wanted = progress or silent, [(kind, severity) for kind in kinds for severity in severities]
    total = len(x) * (paired + len([each for each in wanted if each not in known]))
    done = 0

    def generated(kind: str, severity: int, rows: Tensor) -> Tensor:
        return corrupt(x[rows.to(x.device)], kind, severity, seed=seed, ids=names[rows])

    with attack_mode(model, probe=x[:PROBE], fold=False) as ready:

        def classified(what: str, images: Callable[[Tensor], Tensor]) -> Tensor:
            """bool (N,): which are right."""
            nonlocal done
            right = []
            for rows in torch.split(torch.arange(len(x)), batch_size):
                right.append(_right(ready, images(rows), y[rows]))
                done += len(rows)
                report(done, total, f"corruptions, {what}")
            return torch.cat(right)

        clean = classified("clean", lambda rows: x[rows.to(x.device)]) if paired else None
        results: dict[tuple[str, int], Tensor] = {}
        for kind in kinds:
            fresh = {
                (kind, severity): classified(f"{kind} {severity}", partial(corrupted or generated, kind, severity))
                for severity in severities
                if (kind, severity) not in known
            }
            together = {**known, **fresh}
            results |= {(kind, severity): together[kind, severity].cpu() for severity in severities}
            if fresh and on_kind is not None:
                on_kind(kind, fresh)
    drawn = corrupted is None and "frost" in kinds
    return CorruptionEvaluation(clean, results, [*ready.notes, *([FROST] if drawn else [])])


def _right(model: TargetModel, images: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        logits = model.original(model.load(images)).cpu()
    check_labels(y, logits.shape[1])
    return ~misclassified(logits, y)[0]


def estimate_corruptions(model: nn.Module, x: Tensor, points: int, batch_size: int = 256) -> float:
    """Seconds that :func:`evaluate_corruptions` would take here for so many points, timed with images like ``x``.

    Args:
        x: some of the images; the first 32 are used.
    """
    x, seconds = x[: min(32, batch_size)], 0.0
    with attack_mode(model, probe=x[:PROBE], fold=False) as ready, torch.no_grad():
        ready.original(ready.load(x))  # the first pass is slower
        for kind in CORRUPTIONS:
            for severity in (1, 5):
                began = time.monotonic()
                ready.original(ready.load(corrupt(x, kind, severity))).sum().item()
                seconds += (time.monotonic() - began) / 2
    return seconds * len(SEVERITIES) * points / len(x)
