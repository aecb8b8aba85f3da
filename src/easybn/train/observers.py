"""Observers watch a training and are not part of its loop: metrics file, progress bar.

Experiment trackers are one more, in :mod:`easybn.train.tracking`.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..json_files import Damaged, read_rows, write_rows
from ..progress import progress_display
from ..recipes.recipe import Recipe
from ..rows import METRICS, needed
from .distributed import Processes
from .schedule import Training
from .step import Average, Tally

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID


@dataclass
class TrainingState:
    """A training as it is now: one object, updated after every step, which all observers are given.

    Args:
        model: the model being trained, with its branches.
        recipe, training: the method, and how long and how fast.
        images: number of training images.
        batch_size: images per step, of all processes.
        steps_per_epoch, total_steps: of the whole training.
        optimizer: SGD, with the momentum of every parameter.
        average: the moving average of the weights, if there is one.
        scaler: fp16's loss scaling, if there is one.
        step: optimiser steps taken.
        first_step: steps taken before this session, which began from a checkpoint.
        lr: learning rate of the step just taken.
        tally: sums over the current epoch, one tensor per term (:data:`easybn.train.step.Tally`), of this process.
        seconds: spent training, earlier sessions included.
        stop: an observer sets it to end the training after this step.
        notes: what is unusual about the model, one sentence each.
        processes: which take the steps together; the first one has the observers.
        batch: of the step just taken, of this process: images, labels, and ids.
    """

    model: nn.Module
    recipe: Recipe
    training: Training
    images: int
    batch_size: int
    steps_per_epoch: int
    total_steps: int
    optimizer: torch.optim.Optimizer
    average: Average | None = None
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    first_step: int = 0
    lr: float = 0.0
    tally: Tally = field(default_factory=dict)
    seconds: float = 0.0
    stop: bool = False
    notes: tuple[str, ...] = ()
    processes: Processes = Processes()
    batch: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def deployed(self) -> nn.Module:
        """The model that is validated and deployed: the average if there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def epoch(self) -> float:
        """Epochs done, with the fraction of the current one."""
        return self.step / self.steps_per_epoch


class Observer:
    """A base class whose methods do nothing: override what you need. Each call delays the training."""

    def start(self, state: TrainingState) -> None:
        """Called before the first step of a session."""

    def step(self, state: TrainingState) -> None:
        """Called after every optimiser step."""

    def epoch(self, state: TrainingState, row: dict[str, Any]) -> None:
        """Called after every epoch with its row: epoch, step, lr, and train and val scores of each term or branch."""

    def end(self, state: TrainingState) -> None:
        """Called at the end of a session, also after an error or an interruption."""


def averages(tally: Tally) -> dict[str, dict[str, float]]:
    """{term: {"loss": mean, "accuracy": share}}; waits for the device."""
    sums = dict(zip(tally, torch.stack(list(tally.values())).tolist(), strict=True)) if tally else {}
    return {name: {"loss": loss / n, "accuracy": correct / n} for name, (loss, correct, n) in sums.items()}


_WITH_STEP = {**METRICS, "step": needed(METRICS["step"])}


class MetricsFile(Observer):
    """Writes one JSON line per epoch (metrics.jsonl), with images per second and seconds spent.

    Args:
        path: the file; when a training resumes, rows after its checkpoint are removed.

    Raises:
        Damaged: a row is damaged, or rows of epochs before the checkpoint are missing.
    """

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[dict[str, Any]] = []
        self._mark = (0, 0.0)

    def start(self, state: TrainingState) -> None:
        # earlier versions appended rows, so that a kill could cut off the last one
        self._rows = [row for row in read_rows(self._path, _WITH_STEP, cut="left out") if row["step"] <= state.step]
        done = state.step // state.steps_per_epoch
        if missing := set(range(1, done + 1)) - {row["epoch"] for row in self._rows}:
            raise Damaged(
                f"{self._path} lacks the rows of {len(missing)} epochs that the checkpoint includes, such as epoch "
                f"{min(missing)}: restore it, or delete the checkpoint to start again"
            )
        write_rows(self._path, self._rows)
        self._mark = (state.step, time.monotonic())

    def epoch(self, state: TrainingState, row: dict[str, Any]) -> None:
        last_step, since = self._mark
        now = time.monotonic()
        speed = (state.step - last_step) * state.batch_size / max(now - since, 1e-9)
        self._mark = (state.step, now)
        self._rows.append({**row, "images_per_second": round(speed, 1), "seconds": round(state.seconds, 1)})
        write_rows(self._path, self._rows)


class ProgressBar(Observer):
    """Shows steps done, images per second, time left, and the current epoch's losses and accuracies.

    Args:
        title: the text before the bar.
        display: of :func:`easybn.progress.progress_display`, already live; by default the bar starts its own.
    """

    def __init__(self, title: str, display: "Display | None" = None):
        self._own = display is None
        self._display = display or progress_display()
        self._title = title
        self._shown = self._began = 0.0
        self._task: TaskID | None = None

    def start(self, state: TrainingState) -> None:
        if self._own:
            self._display.start()
        self._task = self._display.add_task(self._title, total=state.total_steps, completed=state.step, info="")
        self._began = time.monotonic()
        for note in state.notes:
            self._display.console.print(f"note: {note}")

    def step(self, state: TrainingState) -> None:
        # reading the losses waits for the device: four times a second is enough
        if time.monotonic() - self._shown < 0.25 and state.step < state.total_steps:
            return
        self._shown = time.monotonic()
        images = (state.step - state.first_step) * state.batch_size
        speed = images / max(self._shown - self._began, 1e-9)
        scores = " ".join(f"{name} {s['loss']:.3f}/{s['accuracy']:.1%}" for name, s in averages(state.tally).items())
        epoch = min(int(state.epoch) + 1, state.training.epochs)
        info = f"epoch {epoch}/{state.training.epochs}  {speed:,.0f} images/s  {scores}"
        if self._task is not None:
            self._display.update(self._task, completed=state.step, info=info)

    def epoch(self, state: TrainingState, row: dict[str, Any]) -> None:
        if self._own and "val" in row:
            scores = ", ".join(f"{name} {s['accuracy']:.1%}" for name, s in row["val"].items())
            self._display.console.print(f"epoch {row['epoch']:>3}: validation accuracy {scores}")

    def end(self, state: TrainingState) -> None:
        if self._own:
            self._display.stop()
