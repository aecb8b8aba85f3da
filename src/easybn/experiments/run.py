"""A run is a folder: what was asked, where it was made, how it went, and the model that came out."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..files import write_text
from ..models import weights
from ..rows import METRICS, SCORES, read_json, read_rows
from ..train.loop import fit
from ..train.metrics import MetricsFile
from ..train.observer import Observer
from .environment import environment
from .experiment import Experiment, describe, differences, read_description
from .model_card import card
from .prepare import prepare


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    ====================== =====================================================
    config.json            the experiment, all defaults filled in, and its digest
    environment.json       versions, commit, machine and threads of each sitting
    metrics.jsonl          a row an epoch
    checkpoint.pt          all branches, optimiser and step
    README.md              the model card: what it is, how it was made, how to load it
    model.safetensors      the plain model to deploy; there when the run is done
    scores.jsonl           a row for each thing measured on the test split
    ====================== =====================================================
    """

    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "model.safetensors").exists()

    @property
    def begun(self) -> bool:
        """Whether there is something to lose."""
        return self.finished or (self.folder / "checkpoint.pt").exists()

    @property
    def config(self) -> dict[str, Any]:
        """The description of the experiment, see :func:`easybn.experiments.experiment.describe`.

        Raises:
            FileNotFoundError, ValueError: the folder is no run.
        """
        return read_description(self.folder / "config.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "metrics.jsonl", METRICS)

    @property
    def sittings(self) -> list[dict[str, Any]]:
        """Where it was trained, see :func:`easybn.experiments.environment.environment`; one entry a start."""
        return read_json(self.folder / "environment.json", [])

    @property
    def scores(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "scores.jsonl", SCORES)

    def add_scores(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, all of them or none."""
        every = [*self.scores, *rows]
        write_text(self.folder / "scores.jsonl", "".join(json.dumps(row) + "\n" for row in every))

    def check(self, experiment: Experiment) -> None:
        """Raise ValueError if another experiment has trained here; the message names the fields that differ."""
        if self.begun and (different := differences(describe(experiment), self.config)):
            raise ValueError(f"{self.folder} holds another run ({'; '.join(different)}): give another --out")

    def claim(self, experiment: Experiment) -> None:
        """Make the folder this experiment's.

        Raises:
            ValueError: another one has trained here, see :meth:`check`.
        """
        self.check(experiment)
        if not self.begun:
            config = {"digest": experiment.digest, "experiment": describe(experiment)}
            write_text(self.folder / "config.json", json.dumps(config, indent=2) + "\n")

    @contextmanager
    def locked(self, timeout: float = 0.0) -> Iterator[None]:
        """One process at a time.

        Args:
            timeout: seconds to wait for another one.

        Raises:
            BusyError: another process is at work here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=timeout):
                yield
        except Timeout as error:
            raise BusyError(
                f"another process is at work in {self.folder}: wait for it, or give another --out"
            ) from error


class BusyError(OSError):
    """A run's folder is in use."""


def train(
    experiment: Experiment,
    folder: Path | str,
    *,
    observers: Sequence[Observer] = (),
    device: torch.device | str | None = None,
    checkpoint_seconds: float = 60.0,
) -> Run:
    """Train in ``folder``: from the start, on from its checkpoint, or not at all if it is done.

    Raises:
        ValueError: the folder holds another run, or the experiment cannot be made.
        BusyError: another process is at work there.
        easybn.train.finite.Diverged, easybn.train.interrupt.Interrupted: see :func:`easybn.fit`.
    """
    run = Run(Path(folder))
    with run.locked():
        run.check(experiment)
        if run.finished:
            return run
        asked = prepare(experiment)
        run.claim(experiment)  # only now: a mistake in the data's or the model's name takes no folder
        write_text(run.folder / "environment.json", json.dumps([*run.sittings, environment()], indent=2) + "\n")
        fitted = fit(
            asked.model,
            experiment.recipe,
            asked.train,
            experiment.training,
            val=asked.val,
            checkpoint=run.folder / "checkpoint.pt",
            checkpoint_seconds=checkpoint_seconds,
            observers=[MetricsFile(run.folder / "metrics.jsonl"), *observers],
            device=device,
        )
        # the model comes last: where it is, all the rest is
        write_text(run.folder / "README.md", card(experiment, asked.data, fitted.model, run.metrics, run.sittings))
        weights.save(fitted.model, run.folder / "model.safetensors", asked.description, asked.data)
    return run
