"""metrics.jsonl: a row an epoch, cut back to the checkpoint when a training goes on."""

import json
import time
from pathlib import Path
from typing import Any

from ..files import write_text
from ..rows import METRICS, needed, read_rows
from .observer import Moment, Observer

WITH_STEP = {**METRICS, "step": needed(METRICS["step"])}


class MetricsFile(Observer):
    """Appends each epoch's row to a file of JSON lines, with images per second and seconds spent.

    Args:
        path: the file; rows of a later step than the training starts from are dropped.
    """

    def __init__(self, path: Path):
        self._path = path
        self._mark = (0, 0.0)

    def start(self, moment: Moment) -> None:
        kept = [row for row in read_rows(self._path, WITH_STEP) if row["step"] <= moment.step]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._mark = (moment.step, time.monotonic())

    def epoch(self, moment: Moment, row: dict[str, Any]) -> None:
        step, began = self._mark
        now = time.monotonic()
        speed = (moment.step - step) * moment.batch_size / max(now - began, 1e-9)
        self._mark = (moment.step, now)
        row = {**row, "images_per_second": round(speed, 1), "seconds": round(moment.seconds, 1)}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
