"""Measure a finished run on the test split, once: what its scores.jsonl holds is not measured again."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.progress import Progress as Display
from rich.progress import TaskID

from .. import data, models
from ..evaluation import evaluate
from ..keyed_random import permutation
from .run import Run

PROTOCOLS = ("robustness", "strong")
Progress = Callable[[int, int, str], None]


def score(
    run: Run,
    display: Display,
    *,
    eps: Sequence[float] = (0.1, 0.5, 1.0),
    norm: str = "l2",
    steps: int = 100,
    protocols: Sequence[str] = PROTOCOLS,
    points: int = 200,
    batch_size: int = 100,
    seed: int = 0,
) -> None:
    """Clean accuracy on the whole test split, and robust accuracy under PGD on ``points`` of it.

    Args:
        display: a live rich display with :func:`easybn.train.progress.training_progress`'s columns.
        batch_size: part of what is measured under the ``robustness`` protocol, and recorded.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is at work there.
        ValueError: an unknown norm or protocol, or a number out of range.
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    source = data.load(run.config["data"], folder=run.config["data_folder"])
    task: list[TaskID] = []

    def progress(done: int, total: int, what: str) -> None:
        if not task:  # shown once there is something to do
            task.append(display.add_task(f"{run.folder.name}: evaluation", info=""))
        display.update(task[0], completed=done, total=total, info=what)

    with run.locked():
        score_clean(run, source, progress=progress)
        score_pgd(
            run, source, eps=eps, norm=norm, steps=steps, protocols=protocols, points=points, batch_size=batch_size,
            seed=seed, progress=progress,
        )  # fmt: skip
    if task:
        display.update(task[0], info="")


def score_clean(run: Run, source: data.Source, *, batch_size: int = 500, progress: Progress | None = None) -> None:
    """Clean accuracy on the whole test split."""
    wanted = {"attack": "clean", "test_images": len(source.test)}
    if not _known(run, wanted):
        _measure(run, source, torch.arange(len(source.test)), wanted, progress, attacks="clean", batch_size=batch_size)


def score_pgd(
    run: Run,
    source: data.Source,
    *,
    eps: Sequence[float] = (0.1, 0.5, 1.0),
    norm: str = "l2",
    steps: int = 100,
    protocols: Sequence[str] = PROTOCOLS,
    points: int = 200,
    batch_size: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Robust accuracy under PGD on ``points`` test images drawn by ``seed``, for each protocol.

    Args:
        batch_size: part of what is measured under the ``robustness`` protocol, and recorded.
    """
    index = test_points(source, points, seed)
    for protocol in protocols:
        request = {"attack": "pgd", "protocol": protocol, "norm": norm, "steps": steps, "test_images": len(index)}
        request |= {"points_seed": seed, "requested_batch_size": batch_size}
        missing = [e for e in eps if not _known(run, {**request, "eps": float(e)})]
        if missing:
            _measure(
                run, source, index, request, progress,
                norm=norm, eps=missing, protocol=protocol, steps=steps, batch_size=batch_size,
            )  # fmt: skip


def test_points(source: data.Source, points: int, seed: int) -> torch.Tensor:
    """The numbers of ``points`` test images drawn by ``seed``, ascending; all of them if there are no more."""
    count = len(source.test)
    return permutation(count, seed, "test points")[: min(points, count)].sort().values


def _known(run: Run, wanted: dict[str, Any]) -> bool:
    return any(all(row.get(name) == value for name, value in wanted.items()) for row in run.scores)


def _measure(
    run: Run, source: data.Source, index: torch.Tensor, request: dict[str, Any], progress: Progress | None, **how: Any
) -> None:
    model = models.load(run.folder)
    x, y = source.test.batch(index)
    began = time.monotonic()
    result = evaluate(model, x, y, progress=progress, **how)
    seconds = round(time.monotonic() - began, 1)
    rows = [score for score in result.scores if score.attack == request["attack"]]
    shared = {"data": source.name, "branch": "main", **request, "seconds": seconds, "notes": result.notes}
    run.add_scores([{**shared, **score.to_dict(), "accuracy": score.accuracy} for score in rows])
