"""A live line in the terminal: where the training stands, how fast, how long to go, loss and accuracy."""

import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from ..terminal import Terminal
from .observer import Moment, Observer, averages


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
