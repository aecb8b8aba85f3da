"""metrics.jsonl: a row an epoch, cut back to the checkpoint when a training goes on."""

import time
from pathlib import Path
from typing import Any

from ..rows import METRICS, needed, read_rows
from ..sealed import Damaged, write_rows
from .observer import Moment, Observer

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
