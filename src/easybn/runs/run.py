"""A run is a folder: what was asked, where it was made, how it went, and the model that came out."""

import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..files import explained, guarding, read_text, sweep, write_text
from ..json_files import Damaged, read_json, read_rows, write_json, write_rows
from ..models import weights
from ..recipes import RECIPES
from ..rows import ENVIRONMENT, METRICS, SCORES
from ..train import checkpoint
from ..train.fit import fit
from ..train.observers import MetricsFile, Observer
from ..train.prepare import usable_device
from .card import card
from .config import Experiment, describe, differences, environment, read_description
from .prepare import prepare


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    ====================== =====================================================
    config.json            the experiment, all defaults filled in, its digest, and the data set's classes and shape
    environment.json       versions, commit, machine and threads of each session
    metrics.jsonl          a row an epoch
    checkpoint.pt          all branches, optimiser and step; until the run is done there is also the one before,
                           checkpoint.previous.pt
    README.md              the model card: what it is, how it was made, how to load it
    model.safetensors      the plain model to deploy; there when the run is done
    scores.jsonl           a row for each thing measured on the test split
    ====================== =====================================================

    Every file has a checksum, in JSON every row, which is tested when it is read; those of earlier versions have none.
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
        """The description of the experiment, see :func:`easybn.runs.config.describe`.

        Raises:
            FileNotFoundError, ValueError: the folder is no run.
        """
        return read_description(self.folder / "config.json")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "metrics.jsonl", METRICS, cut="legacy")

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Where it was trained, see :func:`easybn.runs.config.environment`; one entry a start."""
        return read_json(self.folder / "environment.json", [], ENVIRONMENT)

    @property
    def scores(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "scores.jsonl", SCORES)

    def add_scores(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows, all of them or none."""
        write_rows(self.folder / "scores.jsonl", [*self.scores, *rows])

    def check(self, experiment: Experiment) -> None:
        """Raise ValueError if another experiment has trained here; the message names the fields that differ."""
        if self.begun and (different := differences(describe(experiment), self.config)):
            raise ValueError(f"{self.folder} holds another run ({'; '.join(different)}): give another --out")

    def claim(self, experiment: Experiment, trained_on: weights.TrainedOn | None = None) -> None:
        """Make the folder this experiment's, on this data set.

        Raises:
            ValueError: another one has trained here, see :meth:`check`, or the data set has changed since.
        """
        self.check(experiment)
        about = {} if trained_on is None else json.loads(json.dumps(asdict(trained_on)))
        if self.begun:
            then = read_json(self.folder / "config.json", {}).get("data", about)
            if changed := [f"{key}: {then.get(key)} -> {about[key]}" for key in about if then.get(key) != about[key]]:
                raise ValueError(
                    f"{self.folder}: the data set has changed since this training began ({'; '.join(changed)}): put it "
                    "back, or give another --out"
                )
        else:
            config = {
                "digest": experiment.digest,
                "experiment": describe(experiment),
            }
            if type(experiment.recipe) not in RECIPES.values():  # reports do not import a user's file
                config["appearance"] = experiment.recipe.appearance()
            config |= {"data": about} if about else {}
            write_json(self.folder / "config.json", config)

    def check_whole(self) -> None:
        """See that a finished run has all it should.

        Raises:
            Damaged: the weights are damaged or of another run, or rows of its epochs are.
        """
        epochs = weights.check(self.folder).get("epochs", 0)
        if len(rows := self.metrics) < epochs:
            path = self.folder / "metrics.jsonl"
            raise Damaged(
                f"{path} has rows of {len(rows)} of {epochs} epochs: restore it, or delete the folder to train again"
            )

    @contextmanager
    def locked(self, timeout: float = 0.0) -> Iterator[None]:
        """One process at a time. What killed ones left half-written is removed.

        Args:
            timeout: seconds to wait for another one.

        Raises:
            BusyError: another process is at work here.
            easybn.files.Removed: by what writes here, once the folder was removed or made anew meanwhile.
        """
        with alone(self.folder / ".lock", "process", timeout):
            sweep(self.folder, _FILES.__contains__)
            with guarding(self.folder, self.folder / ".lock"):
                yield


_FILES = {  # what is written under the lock
    "config.json", "environment.json", "metrics.jsonl", "checkpoint.pt", "checkpoint.previous.pt", "README.md",
    "model.safetensors", "scores.jsonl", "hidden.jsonl", "branches.jsonl", "summary.json", "gallery.png",
    "verdicts.jsonl", "stacked.json", "rows.jsonl", "census.json", "census.jsonl", "overlap.jsonl",
}  # fmt: skip


class BusyError(OSError):
    """A run's folder is in use."""


@contextmanager
def alone(lock: Path, what: str, timeout: float = 0.0) -> Iterator[None]:
    """One process at a time holds ``lock``, and says beside it who it is.

    Args:
        lock: a file in the folder that is worked in, which is made if it is not there.
        what: that works, for the message: "process", "study".
        timeout: seconds to wait for another one.

    Raises:
        BusyError: another one is at work there; the message says which, on which machine and since when.
    """
    folder, note = lock.parent, lock.with_name(f"{lock.name}.by")
    held = FileLock(lock, timeout=timeout)
    try:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            held.acquire()
    except Timeout as error:
        who = f" ({said})" if (said := _said(note)) else ""
        raise BusyError(f"another {what} is at work in {folder}{who}: wait for it, or give another --out") from error
    try:
        with suppress(OSError):  # it is for the others' messages alone
            note.unlink(missing_ok=True)  # of one that was killed, or a link to something else
            with note.open("x", encoding="utf-8", errors="backslashreplace") as file:
                since, command = time.strftime("%Y-%m-%d %H:%M:%S"), " ".join(sys.argv)[:200]
                file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}: {command}\n")
        yield
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        held.release()


def _said(note: Path) -> str:
    try:
        return " ".join(read_text(note, 1000).split())
    except (OSError, ValueError):  # it has ended, or says nothing
        return ""


def train(
    experiment: Experiment,
    folder: Path | str,
    *,
    observers: Sequence[Observer] = (),
    device: torch.device | str | None = None,
    data_on_device: bool | None = None,
    checkpoint_seconds: float = 60.0,
    on_note: Callable[[str], object] = lambda note: None,
) -> Run:
    """Train in ``folder``: from the start, on from its checkpoint, or not at all if it is done.

    A model that is damaged is made again from the checkpoint.

    Args:
        device, data_on_device: see :func:`easybn.fit`.
        on_note: called with each note of the data set before the first step.

    Raises:
        ValueError: the folder holds another run, or the experiment cannot be made.
        Damaged: a ValueError; a file of the run is damaged, and nothing there to make it again from.
        BusyError: another process is at work there.
        easybn.files.Removed: the folder was removed, or made anew, while the run was at work.
        easybn.train.fit.Diverged, easybn.interrupt.Interrupted: see :func:`easybn.fit`.
    """
    if device is not None:
        usable_device(device)  # a mistake takes no folder
    run = Run(Path(folder))
    run.check(experiment)
    # before there is a folder: a mistake in the data's or the model's name leaves none behind
    asked = None if run.folder.exists() else prepare(experiment)
    with run.locked():
        run.check(experiment)
        damaged: Damaged | None = None
        if run.finished:
            try:
                run.check_whole()
                return run
            except Damaged as error:
                if not (run.folder / "checkpoint.pt").exists():
                    told = "there is no checkpoint.pt to make it again from: restore it, or delete it to train again"
                    raise Damaged(f"{error}; {told}") from error
                damaged = error
        asked = asked or prepare(experiment)
        run.claim(experiment, asked.data)
        for note in asked.notes:
            on_note(note)
        write_json(run.folder / "environment.json", [*run.sessions, environment()])
        written = {path: path.read_bytes() for path in (run.folder / "config.json", run.folder / "environment.json")}
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
            data_on_device=data_on_device,
        )
        for path, content in written.items():  # they may have been removed while the run was at work
            if not path.exists():
                write_text(path, content.decode())
            elif path.read_bytes() != content:
                raise Damaged(f"{path} was changed while the run was at work: restore it, or delete the folder")
        # the model comes last: where it is, all the rest is
        write_text(run.folder / "README.md", card(experiment, asked.data, fitted.model, run.metrics, run.sessions))
        model = run.folder / "model.safetensors"
        if damaged is not None:
            aside = model.replace(model.with_name(model.name + ".corrupt"))
            warnings.warn(f"{damaged}; put aside as {aside.name} and made again from checkpoint.pt", stacklevel=2)
        of = {"config": experiment.digest, "epochs": len(run.metrics)}
        weights.save(fitted.model, model, asked.description, asked.data, of)
        checkpoint.previous(run.folder / "checkpoint.pt").unlink(missing_ok=True)
    return run
