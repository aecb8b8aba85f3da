"""Experiment trackers behind one small interface: TensorBoard, Weights & Biases, trackio and MLflow.

A tracker is opened for a run, new or continued, and given numbers and pictures. Each is its package's own client, with
that package's environment variables: WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR and so on. Projects are called
``easybn`` unless WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME or TRACKIO_PROJECT says otherwise.
"""

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..attacks.model_call import one_line

PROJECT = "easybn"
FINISH_SECONDS = 60.0
"""How long a training waits at its end for trackers that have not taken everything yet."""


@dataclass(frozen=True)
class About:
    """What a tracker shows of a run beside its numbers.

    Args:
        name: of the run.
        folder: for files of trackers that write some.
        config: flat, values are numbers or text.
    """

    name: str
    folder: Path
    config: dict[str, Any]


class Tracker(Protocol):
    """One run in one tracker, opened by ``Class(about, kept)``.

    ``kept`` is what finds the run again: a dictionary for JSON, empty for a new run.
    """

    kept: dict[str, Any]

    def __init__(self, about: About, kept: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, float], step: int) -> None:
        """Add a point to each of these curves."""

    def images(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Show pictures, uint8 (H, W, 3)."""

    def scores(self, values: dict[str, float], step: int) -> None:
        """Show results of the trained model."""

    def close(self, done: bool) -> None:
        """Send what is left; ``done`` tells a finished training from an interrupted one."""


class TensorBoard:
    """Event files in ``FOLDER/tensorboard``; the config is what its HParams page compares."""

    def __init__(self, about: About, kept: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.kept: dict[str, Any] = {"folder": "tensorboard"}
        # what an earlier session wrote after the last point that it knows of is not read
        purged = kept["step"] + 1 if "step" in kept else None
        self._writer = SummaryWriter(str(about.folder / self.kept["folder"]), purge_step=purged)
        if not kept:
            # SummaryWriter.add_hparams would make a second run for them
            for summary in hparams(about.config, {}):  # type: ignore[no-untyped-call]
                self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def images(self, pictures: dict[str, np.ndarray], step: int) -> None:
        for name, picture in pictures.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.flush()

    scores = log

    def close(self, done: bool) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, its files in ``FOLDER/wandb``; final results are its summary."""

    def __init__(self, about: About, kept: dict[str, Any]):
        import wandb

        project = kept.get("project") or os.environ.get("WANDB_PROJECT", PROJECT)
        self.kept: dict[str, Any] = {"id": kept.get("id") or uuid.uuid4().hex[:8], "project": project}
        about.folder.mkdir(parents=True, exist_ok=True)  # else wandb writes elsewhere
        settings: dict[str, Any] = {"console": "off", "init_timeout": FINISH_SECONDS / 2}  # a progress bar is no log
        if "finish_timeout" in wandb.Settings.model_fields:  # else it waits for a lost network without end
            settings["finish_timeout"] = FINISH_SECONDS / 2
        options: dict[str, Any] = {**self.kept, "name": about.name, "dir": str(about.folder), "config": about.config}
        if wandb.setup().settings.mode not in OFFLINE:  # where it warns that it cannot
            options["resume"] = "allow"
        self._run: Any = wandb.init(**options, settings=wandb.Settings(**settings))

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def images(self, pictures: dict[str, np.ndarray], step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(picture) for name, picture in pictures.items()}, step=step)

    def scores(self, values: dict[str, float], step: int) -> None:
        self._run.summary.update(values)

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


OFFLINE = ("offline", "dryrun", "disabled")


def log_in_to_wandb() -> None:
    """Let wandb ask for its key if it needs one and there is a terminal; ValueError if it gets none.

    Whether the key is right is not asked of its server: that would wait for a network.
    """
    import wandb

    if wandb.setup().settings.mode in OFFLINE:
        return
    try:
        wandb.login(verify=False)
    except (wandb.errors.Error, ValueError) as error:  # no key, or none that can be one
        raise ValueError(f"wandb: {one_line(error)} (WANDB_MODE=offline does without)") from None


class Trackio:
    """A run of trackio, in its own SQLite file (TRACKIO_DIR) or Space."""

    def __init__(self, about: About, kept: dict[str, Any]):
        import trackio

        self.kept: dict[str, Any] = {
            "project": kept.get("project") or os.environ.get("TRACKIO_PROJECT", PROJECT),
            # it finds a run by its name
            "name": kept.get("name") or f"{about.name}-{uuid.uuid4().hex[:6]}",
        }
        self._image = trackio.Image
        self._run: Any = trackio.init(**self.kept, config=about.config, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def images(self, pictures: dict[str, np.ndarray], step: int) -> None:
        self._run.log({name: self._image(picture) for name, picture in pictures.items()}, step=step)

    scores = log

    def close(self, done: bool) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI says; the config is its parameters, pictures are its artifacts."""

    def __init__(self, about: About, kept: dict[str, Any]):
        import mlflow
        from mlflow.entities import Param

        uri = kept.get("uri") or mlflow.get_tracking_uri()
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        if "id" in kept:
            self._id = str(kept["id"])
            self._client.update_run(self._id, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            self._id = self._client.create_run(experiment, run_name=about.name).info.run_id
            config = [Param(name, str(value)) for name, value in about.config.items()]
            for start in range(0, len(config), 100):  # as many as it takes at once
                self._client.log_batch(self._id, params=config[start : start + 100])
        # an address may hold a password, and is asked for again
        self.kept: dict[str, Any] = {
            "id": self._id,
            **({"uri": uri} if uri.startswith(("sqlite:", "file:", "/")) else {}),
        }

    def log(self, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in values.items()])

    def images(self, pictures: dict[str, np.ndarray], step: int) -> None:
        for name, picture in pictures.items():
            self._client.log_image(self._id, picture, key=name, step=step)

    scores = log

    def close(self, done: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if done else "KILLED")


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for an unknown tracker, or one whose package is missing."""
    if unknown := [name for name in names if name not in TRACKERS]:
        raise ValueError(f"unknown tracker {unknown[0]!r}; known: {', '.join(TRACKERS)}")
    if missing := [name for name in names if find_spec(name) is None]:
        raise ValueError(f"the tracker {missing[0]} is not installed: pip install 'easybn[{missing[0]}]'")
