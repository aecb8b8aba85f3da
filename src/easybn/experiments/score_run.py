"""Measure a finished run on the test split, once: what its scores.jsonl holds is not measured again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.progress import Progress as Display
from rich.progress import TaskID

from .. import data
from ..evaluation import evaluate
from ..keyed_random import permutation
from ..rows import Row
from .evaluated import Evaluated
from .over_seeds.bits import packed, points_digest
from .run import Run

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Measurement:
    """What to measure: clean accuracy on the whole test split, and PGD on a part of it.

    Args:
        norm: "l2" or "linf".
        eps: radii in [0, 1] pixel units.
        protocols: of PGD: "robustness", "strong" or both.
        steps: gradient steps an image, for each loss.
        points: test images attacked, drawn by ``seed``; all of them if there are no more.
        batch_size: part of what the ``robustness`` protocol measures, and recorded.
        seed: of the draw.
        device: where to compute; the CPU by default.
        diagnosed: look for what makes the figures misleading.
    """

    norm: str = "l2"
    eps: tuple[float, ...] = (0.1, 0.5, 1.0)
    protocols: tuple[str, ...] = ("robustness", "strong")
    steps: int = 100
    points: int = 1000
    batch_size: int = 100
    seed: int = 0
    device: str | None = None
    diagnosed: bool = True

    def __post_init__(self) -> None:
        for name in ("points", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def has_rows(self, scores: Sequence[Row], branch: str) -> bool:
        """Whether all that is wanted of a branch is among the scores."""
        how = {"attack": "pgd", "norm": self.norm, "steps": self.steps, "points_seed": self.seed, "branch": branch}
        how |= {"requested_batch_size": self.batch_size}
        pgd = [how | {"protocol": protocol, "eps": float(eps)} for protocol in self.protocols for eps in self.eps]
        clean = {"attack": "clean", "branch": branch}
        return has_row(scores, clean) and all(has_row(scores, each, self.points) for each in pgd)


def has_row(scores: Sequence[Row], wanted: Row, points: int | None = None) -> bool:
    """Whether a row has these values; a key that it lacks, being of an earlier version, counts as equal.

    Args:
        points: of the row; a data set that has fewer gives as many as its clean accuracy is of.
    """
    every = max((row["n"] for row in scores if row["attack"] == "clean"), default=0)
    for row in scores:
        if all(row.get(name, value) == value for name, value in wanted.items()):
            images = row.get("test_images", points)
            if points is None or images == points or images == every < points:
                return True
    return False


def score(run: Run, display: Display, wanted: Measurement = Measurement(), evaluated: Evaluated | None = None) -> None:
    """Measure what is ``wanted`` and not yet among the run's scores.

    Args:
        display: a live rich display with :func:`easybn.train.progress.training_progress`'s columns.
        evaluated: the model and its images; by default those of the run.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is at work there.
        ValueError: an unknown norm or protocol, or a number out of range.
    """
    what = evaluated or Evaluated.of_run(run)
    task: list[TaskID] = []

    def progress(done: int, total: int, what: str) -> None:
        if not task:  # shown once there is something to do
            task.append(display.add_task(f"{run.folder.name}: evaluation", info=""))
        display.update(task[0], completed=done, total=total, info=what)

    what.check()  # a mistake in the model, the data or the labels leaves no folder behind
    what.claim()
    with run.locked():
        _clean(what, wanted, progress)
        for protocol in wanted.protocols:
            _pgd(what, wanted, protocol, progress)
    if task:
        display.update(task[0], info="")


def test_points(source: data.Source, points: int, seed: int) -> torch.Tensor:
    """The numbers of ``points`` test images drawn by ``seed``, ascending; all of them if there are no more."""
    count = len(source.test)
    return permutation(count, seed, "test points")[: min(points, count)].sort().values


def _clean(what: Evaluated, wanted: Measurement, progress: Progress) -> None:
    count = len(what.source.test)
    request = {"branch": what.branch, "attack": "clean", "test_images": count}
    if not _known(what.run, request):
        _measure(what, torch.arange(count), request, progress, wanted.device, attacks="clean", batch_size=500)


def _pgd(what: Evaluated, wanted: Measurement, protocol: str, progress: Progress) -> None:
    index = test_points(what.source, wanted.points, wanted.seed)
    request = {
        "branch": what.branch,
        "attack": "pgd",
        "protocol": protocol,
        "norm": wanted.norm,
        "steps": wanted.steps,
        "test_images": len(index),
        "points_seed": wanted.seed,
        "requested_batch_size": wanted.batch_size,
    }
    radii = [e for e in wanted.eps if not _known(what.run, {**request, "eps": float(e)})]
    if not radii:
        return
    if protocol == "strong":
        radii = list(wanted.eps)  # together: what falls at one radius counts at every larger one
    how = {"norm": wanted.norm, "eps": radii, "protocol": protocol, "steps": wanted.steps}
    how["diagnosis"] = wanted.diagnosed
    _measure(what, index, request, progress, wanted.device, **how, batch_size=wanted.batch_size)


def _known(run: Run, wanted: dict[str, Any]) -> bool:
    return any(all(row.get(name) == value for name, value in wanted.items()) for row in run.scores)


def _measure(
    what: Evaluated,
    index: torch.Tensor,
    request: dict[str, Any],
    progress: Progress,
    device: str | None,
    **how: Any,
) -> None:
    model = what.model.to(device or "cpu")
    x, y = what.source.test.batch(index)
    began = time.monotonic()
    result = evaluate(model, x, y, progress=progress, **how)
    seconds = round(time.monotonic() - began, 1)
    rows = [score for score in result.scores if score.attack == request["attack"]]
    shared = {"data": what.source.name, **request, "seconds": seconds, "notes": [*what.notes, *result.remarks]}
    shared["points"] = points_digest(index.tolist())  # with the verdict on each, for tests of two runs point by point
    right = {score: result.clean if score.eps is None else result.robust_at[score.eps] for score in rows}
    made = [{**shared, **each.to_dict(), "accuracy": each.accuracy, "right": packed(of)} for each, of in right.items()]
    if result.findings:  # once, though they are of all these rows
        made[0]["findings"] = [asdict(finding) for finding in result.findings]
    what.run.add_scores(made)
