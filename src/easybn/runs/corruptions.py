"""Evaluate a run on its test images under common corruptions; kinds that its folder has are not computed again.

Every kind is added to ``corruptions.jsonl`` as soon as its five severities are done. Once all are there, their mean,
mCA, becomes a row of ``scores.jsonl``.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..data.corruptions import check_shape
from ..data.published_corruptions import FOLDERS, find_published, places
from ..data.split import DataError
from ..evaluation.corruptions import (
    Corrupted,
    CorruptionConfig,
    CorruptionEvaluation,
    estimate_corruptions,
    evaluate_corruptions,
    verdicts_in,
)
from ..evaluation.verdicts import pack_bits, points_digest
from ..json_files import Row
from ..keyed_random import permutation
from ..progress import OnProgress, silent
from .evaluate import draw_test_points, measure_clean
from .measured import is_row
from .target import EvaluationTarget


@dataclass(frozen=True)
class CorruptedResult:
    """What was measured of one model.

    Args:
        evaluation: under all kinds and severities.
        source: of the corruptions, "generated" or "published".
        points: how many test images, drawn from ``total``.
    """

    evaluation: CorruptionEvaluation
    source: str
    points: int
    total: int


def evaluate_run_corrupted(
    target: EvaluationTarget, config: CorruptionConfig, progress: OnProgress = silent
) -> "CorruptedResult":
    """Measure what ``config`` asks for and the run does not have yet, and add its rows.

    Args:
        target: the model, its test images, and the folder of the scores; its branch is the one that counts.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is at work there.
        ValueError: anything out of range; published files that are not there or do not fit; images that cannot be
            corrupted.
        OSError: something cannot be written; the kinds that were added are complete.
    """
    target.check()  # a mistake in the model, the data or the labels leaves no folder behind
    points = _Points.of(target, config)
    shared = {
        "data": target.source.name, "branch": target.branch, "source": points.source, "points_seed": config.seed,
        "test_images": len(points.index), "points": points_digest(points.index.tolist()),
    }  # fmt: skip
    target.claim()
    began = time.monotonic()
    with target.run.locked():
        measure_clean(target, config.device, progress)
        same = [row for row in target.run.corruptions if is_row(row, {**shared, "n": len(points.index)})]
        known = verdicts_in(same, str(target.run.folder / "corruptions.jsonl"))

        def add(kind: str, right: Mapping[tuple[str, int], Tensor]) -> None:
            target.run.add_corruptions([{**shared, **_row(*each)} for each in right.items()])

        result = evaluate_corruptions(
            target.model.to(config.device or "cpu"), points.x, points.y, seed=config.seed, ids=points.index,
            corrupted=points.corrupted, paired=points.paired, batch_size=config.batch_size, known=known, on_kind=add,
            progress=progress,
        )  # fmt: skip
        result = replace(result, notes=[*points.notes, *result.notes])
        summary = _summary(result, points, shared)
        if not any(is_row(row, summary) for row in target.run.scores):
            seconds = round(time.monotonic() - began, 1)
            target.run.add_scores([{**summary, "seconds": seconds, "notes": [*target.notes, *result.notes]}])
    return CorruptedResult(result, points.source, len(points.index), points.total)


def estimate_run_corrupted(target: EvaluationTarget, config: CorruptionConfig) -> float:
    """Seconds that :func:`evaluate_run_corrupted` would take here if nothing was there yet."""
    target.check()
    points, model = _Points.of(target, config), target.model.to(config.device or "cpu")
    return estimate_corruptions(model, points.x, len(points.index), config.batch_size)


@dataclass(frozen=True)
class _Points:
    """The points of an evaluation, and where their corrupted images are from.

    Args:
        index: int64 (n,), ascending: numbers of test images, or of published images in their order.
        x: the test images of these numbers as they are, (n, C, H, W).
        y: int64 (n,), labels of the corrupted images, by the numbers of the model's outputs.
        paired: whether ``x`` are the images that were corrupted.
        total: how many there are to draw from.
        corrupted: published images; None where they are made.
        notes: what a reader should know.
    """

    index: Tensor
    x: Tensor
    y: Tensor
    total: int
    paired: bool = True
    corrupted: Corrupted | None = None
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """ "generated" or "published"."""
        return "generated" if self.corrupted is None else "published"

    @classmethod
    def of(cls, target: EvaluationTarget, config: CorruptionConfig) -> "_Points":
        """The points of a config; ValueError if there are no such corruptions of the test images."""
        data = target.source
        try:
            check_shape(data.test.shape)
        except ValueError as error:
            raise DataError(f"{data.name}: {error}") from error
        published = None if config.source == "generated" else find_published(data.name, config.folder)
        if published is None and config.source == "published":
            searched = ", ".join(map(str, places(data.name)))
            where = f"were not found in {searched}" if searched else f"are known only of {', '.join(FOLDERS)}"
            raise DataError(
                f"{data.name}: published corruptions {where}: name their folder by --corruptions_folder, or make "
                "corruptions: --corruptions generated"
            )
        if published is None:
            index = draw_test_points(data, config.asked, config.seed)
            return cls(index, *data.test.batch(index), len(data.test))
        labels, paired = published.matched(data)
        count = len(labels)  # that of the test images, drawn as these are, where they are the same ones
        index = permutation(count, config.seed, "test points")[: config.asked].sort().values
        notes = [f"corrupted images of {published.folder.name}, as published"]
        if not paired:
            notes.append(
                f"the test images of {data.name} come in another order than the published ones: the corrupted points "
                "are others than those of clean accuracy and of attacks"
            )

        def corrupted(kind: str, severity: int, rows: Tensor) -> Tensor:
            return published.images(kind, severity, index[rows])

        shown = index.clamp(max=len(data.test) - 1)  # of unpaired images only the shape counts
        return cls(index, data.test.batch(shown)[0], labels[index], count, paired, corrupted, tuple(notes))


def _row(corruption: tuple[str, int], right: Tensor) -> Row:
    kind, severity = corruption
    correct, n = int(right.sum()), len(right)
    counts = {"n": n, "correct": correct, "accuracy": correct / n}
    return {"corruption": kind, "severity": severity, **counts, "right": pack_bits(right)}


def _summary(result: CorruptionEvaluation, points: _Points, shared: Row) -> Row:
    """The row of scores: all kinds and severities together."""
    n, correct = (sum(count) for count in zip(*((len(r), int(r.sum())) for r in result.right.values()), strict=True))
    low, high = result.interval()
    clean = {} if result.clean is None else {"clean_correct": int(result.clean.sum())}
    about = {key: value for key, value in shared.items() if key != "source"}
    return {
        **about, "attack": "corruptions", "protocol": points.source, "norm": None, "eps": None, "n": n,
        "correct": correct, "accuracy": correct / n, "low": low, "high": high, **clean,
    }  # fmt: skip
