"""Experiment trackers (tensorboard, wandb, trackio, mlflow), through accelerate's one interface to them."""

from pathlib import Path
from typing import Any

from .observer import Moment, Observer

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
