"""Experiment trackers (tensorboard, wandb, trackio, mlflow), through accelerate's one interface to them."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import nn

from ..json_files import Damaged, read_rows, write_rows
from ..recipes.recipe import Recipe
from ..rows import METRICS, needed
from ..terminal import Terminal
from .schedule import Training
from .step import Tally

# Who watches a training: progress bars, metrics files, a census, early stops; none of them in the loop.


@dataclass
class Moment:
    """Where a training stands; the one object that all observers are shown, updated as it goes.

    Args:
        model: the model being trained, with its branches.
        recipe, training: the method and its surroundings.
        steps_per_epoch, total_steps: of the whole training.
        batch_size: images a step.
        step: optimiser steps taken.
        lr: learning rate of the step just taken.
        tally: sums over the epoch under way, a tensor a term (see :mod:`easybn.train.step`).
        seconds: spent training, earlier sittings included.
        first_step: where this sitting began.
        stop: an observer sets it to end the training after this step.
        notes: what is unusual about the model, a sentence each.
    """

    model: nn.Module
    recipe: Recipe
    training: Training
    steps_per_epoch: int
    total_steps: int
    batch_size: int
    step: int = 0
    lr: float = 0.0
    tally: Tally = field(default_factory=dict)
    seconds: float = 0.0
    first_step: int = 0
    stop: bool = False
    notes: tuple[str, ...] = ()

    @property
    def epoch(self) -> float:
        """Epochs done, a real number."""
        return self.step / self.steps_per_epoch


class Observer:
    """Override what you need; each call is in the training's own thread and should be short."""

    def start(self, moment: Moment) -> None:
        """Before the first step of a sitting."""

    def step(self, moment: Moment) -> None:
        """After every optimiser step."""

    def epoch(self, moment: Moment, row: dict[str, Any]) -> None:
        """After every epoch, with its row: epoch, step, lr, and train and val scores of each term or branch."""

    def end(self, moment: Moment) -> None:
        """At the end of a sitting, also after an error or an interruption."""


def averages(tally: Tally) -> dict[str, dict[str, float]]:
    """{term: {"loss": mean, "accuracy": share}}; waits for the device."""
    rows = dict(zip(tally, torch.stack(list(tally.values())).tolist(), strict=True)) if tally else {}
    return {name: {"loss": loss / n, "accuracy": right / n} for name, (loss, right, n) in rows.items()}


# metrics.jsonl: a row an epoch, cut back to the checkpoint when a training goes on.

WITH_STEP = {**METRICS, "step": needed(METRICS["step"])}


class MetricsFile(Observer):
    """Writes a file of JSON lines with a row for each epoch, with images per second and seconds spent.

    Args:
        path: the file; rows of a later step than the training starts from are dropped.

    Raises:
        Damaged: a row is damaged, or those of epochs that the checkpoint has done are missing.
    """

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._mark = (0, 0.0)

    def start(self, moment: Moment) -> None:
        # earlier versions appended, so that a kill could cut the last row off
        self._rows = [row for row in read_rows(self._path, WITH_STEP, cut="left out") if row["step"] <= moment.step]
        done = moment.step // moment.steps_per_epoch
        if missing := set(range(1, done + 1)) - {row["epoch"] for row in self._rows}:
            raise Damaged(
                f"{self._path} lacks the rows of {len(missing)} epochs that the checkpoint has done, such as epoch "
                f"{min(missing)}: restore it, or delete the checkpoint to start again"
            )
        write_rows(self._path, self._rows)
        self._mark = (moment.step, time.monotonic())

    def epoch(self, moment: Moment, row: dict[str, Any]) -> None:
        step, began = self._mark
        now = time.monotonic()
        speed = (moment.step - step) * moment.batch_size / max(now - began, 1e-9)
        self._mark = (moment.step, now)
        self._rows.append({**row, "images_per_second": round(speed, 1), "seconds": round(moment.seconds, 1)})
        write_rows(self._path, self._rows)


# A live line in the terminal: where the training stands, how fast, how long to go, loss and accuracy.


class ProgressBar(Observer):
    """Steps done, images a second, time left, and the losses and accuracies of the epoch under way.

    Args:
        progress: a rich display that is already live; without one the bar makes its own.
        title: what stands before the bar.
    """

    def __init__(self, title: str, progress: Progress | None = None):
        self._own = progress is None
        self._progress = progress or training_progress()
        self._title = title
        self._shown = self._began = 0.0
        self._task: TaskID | None = None

    def start(self, moment: Moment) -> None:
        if self._own:
            self._progress.start()
        self._task = self._progress.add_task(self._title, total=moment.total_steps, completed=moment.step, info="")
        self._began = time.monotonic()
        for note in moment.notes:
            self._progress.console.print(f"note: {note}")

    def step(self, moment: Moment) -> None:
        # reading the losses waits for the device: four times a second is enough
        if time.monotonic() - self._shown < 0.25 and moment.step < moment.total_steps:
            return
        self._shown = time.monotonic()
        images = (moment.step - moment.first_step) * moment.batch_size
        speed = images / max(self._shown - self._began, 1e-9)
        scores = " ".join(f"{name} {s['loss']:.3f}/{s['accuracy']:.1%}" for name, s in averages(moment.tally).items())
        epoch = min(int(moment.epoch) + 1, moment.training.epochs)
        info = f"epoch {epoch}/{moment.training.epochs}  {speed:,.0f} images/s  {scores}"
        if self._task is not None:
            self._progress.update(self._task, completed=moment.step, info=info)

    def epoch(self, moment: Moment, row: dict[str, Any]) -> None:
        if self._own and "val" in row:
            scores = ", ".join(f"{name} {s['accuracy']:.1%}" for name, s in row["val"].items())
            self._progress.console.print(f"epoch {row['epoch']:>3}: validation accuracy {scores}")

    def end(self, moment: Moment) -> None:
        if self._own:
            self._progress.stop()


def training_progress() -> Progress:
    """The columns that the bar's tasks expect; where it is narrow, words go on in the next line and nothing is cut."""
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[info]}", markup=False, table_column=Column(overflow="fold")),
        console=Terminal(),
    )


TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


class Tracking(Observer):
    """Sends each epoch's row to trackers: ``train/main/loss``, ``val/easy/accuracy``, ``lr`` and so on.

    Args:
        names: trackers out of ``TRACKERS``, their packages installed.
        run_name: what they call the run.
        folder: for those that write files.
        config: the run's description, nested as JSON is; they are shown it flat.

    Raises:
        ValueError: an unknown tracker, or one whose package is missing.
    """

    def __init__(self, names: list[str], run_name: str, folder: Path, config: dict[str, Any]):
        if unknown := [name for name in names if name not in TRACKERS]:
            raise ValueError(f"unknown tracker {unknown[0]!r}; known: {', '.join(TRACKERS)}")
        try:
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
        except ModuleNotFoundError:
            raise ValueError("trackers need accelerate: pip install 'easybn[track]'") from None
        there = {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}
        if missing := [name for name in names if name not in there]:
            raise ValueError(f"the tracker {missing[0]} is not installed: pip install {missing[0]}")
        self._kinds = [LOGGER_TYPE_TO_CLASS[name] for name in names]
        self._run_name, self._folder, self._config = run_name, folder, flat(config)
        self._trackers: list[Any] = []

    def start(self, moment: Moment) -> None:
        for kind in self._kinds:
            where = {"logging_dir": str(self._folder)} if kind.requires_logging_directory else {}
            tracker = kind(self._run_name, **where)
            tracker.start()
            tracker.store_init_configuration(self._config)
            self._trackers.append(tracker)

    def epoch(self, moment: Moment, row: dict[str, Any]) -> None:
        values = {name: value for name, value in flat(row).items() if isinstance(value, (int, float))}
        for tracker in self._trackers:
            tracker.log(values, step=moment.step)

    def end(self, moment: Moment) -> None:
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, the keys joined by slashes; lists and None as text."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}/")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return out
