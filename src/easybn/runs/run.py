"""A run is a folder: its experiment, where it was trained, how the training went, and the trained model."""

import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..files import explained, sweep, write_text
from ..json_files import Damaged, read_json, read_rows, write_json, write_rows
from ..locks import Held, held
from ..models import weights
from ..models.convolutions import CHANNELS, training_channels, winograd_from
from ..recipes import RECIPES
from ..rows import CORRUPTED, ENVIRONMENT, METRICS, SCORES
from ..train import checkpoint
from ..train.distributed import Processes
from ..train.fit import fit
from ..train.observers import MetricsFile, Observer
from ..train.prepare import usable_device
from .config import Experiment
from .description import check_description, describe, read_description
from .export import card
from .prepare import Prepared, prepare


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    ====================== =====================================================
    config.json            the experiment with all defaults filled in, its digest, and classes and shape of the data
    environment.json       versions, commit, machine and threads of each session
    metrics.jsonl          one row per epoch
    checkpoint.pt          all branches, optimiser and step; until the run is finished also the previous checkpoint,
                           checkpoint.previous.pt
    README.md              the model card: what the model is, how it was trained, how to load it
    model.safetensors      the plain model to deploy; written last, so it means that the run is finished
    epochs/                the networks after some epochs, see :mod:`.kept_epochs`; only if asked for
    scores.jsonl           one row per measurement on the test images
    corruptions.jsonl      one row per kind and severity of corrupted test images
    ====================== =====================================================

    Files have checksums (JSON lines one per row) that are verified on reading; files of earlier versions have none.
    """

    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "model.safetensors").exists()

    @property
    def started(self) -> bool:
        """Whether a training has saved something here."""
        return self.finished or (self.folder / "checkpoint.pt").exists()

    @property
    def config(self) -> dict[str, Any]:
        """The description of the experiment, see :func:`.description.describe`.

        Raises:
            FileNotFoundError, ValueError: the folder is no run.
        """
        return read_description(self.folder / "config.json")

    @property
    def digest(self) -> str | None:
        """Of the experiment, as config.json has it."""
        return read_json(self.folder / "config.json", {}).get("digest")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "metrics.jsonl", METRICS, cut="legacy")

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Where it was trained, see :func:`environment`; one entry per session."""
        return read_json(self.folder / "environment.json", [], ENVIRONMENT)

    @property
    def scores(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "scores.jsonl", SCORES)

    def add_scores(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows to scores.jsonl, all or none."""
        write_rows(self.folder / "scores.jsonl", [*self.scores, *rows])

    @property
    def corruptions(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "corruptions.jsonl", CORRUPTED)

    def add_corruptions(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows to corruptions.jsonl, all or none."""
        write_rows(self.folder / "corruptions.jsonl", [*self.corruptions, *rows])

    def check(self, experiment: Experiment) -> None:
        """Raise ValueError, naming the fields that differ, if another experiment has trained here."""
        if self.started:
            check_description(self.folder, describe(experiment))

    def claim(self, experiment: Experiment, trained_on: weights.TrainedOn | None = None) -> None:
        """Write config.json, unless this experiment has trained here on the same data set.

        Raises:
            ValueError: another experiment has trained here, or the data set has changed since.
        """
        self.check(experiment)
        about = {} if trained_on is None else json.loads(json.dumps(asdict(trained_on)))
        if self.started:
            then = read_json(self.folder / "config.json", {}).get("data", about)
            if changed := [f"{key}: {then.get(key)} -> {about[key]}" for key in about if then.get(key) != about[key]]:
                raise ValueError(
                    f"{self.folder}: the data set has changed since this training began ({'; '.join(changed)}): "
                    "restore it, or give another --out"
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

    def check_complete(self) -> None:
        """Check that a finished run has all its files.

        Raises:
            Damaged: the weights are damaged or of another run, or rows of epochs are missing or damaged.
        """
        epochs = weights.check(self.folder).get("epochs", 0)
        if len(rows := self.metrics) < epochs:
            path = self.folder / "metrics.jsonl"
            raise Damaged(
                f"{path} has rows of {len(rows)} of {epochs} epochs: restore it, or delete the folder to train again"
            )

    @contextmanager
    def locked(self, timeout: float = 0.0) -> Iterator[None]:
        """Let one process at a time work here; half-written files of killed processes are removed.

        Args:
            timeout: seconds to wait for another process.

        Raises:
            BusyError: another process is working here.
            easybn.files.Removed: on writing, if the folder was removed or made anew meanwhile.
        """
        with alone(self.folder / ".lock", "process", timeout):
            sweep(self.folder, _FILES.__contains__)
            yield


_FILES = {  # files that are written under the lock
    "config.json", "environment.json", "metrics.jsonl", "checkpoint.pt", "checkpoint.previous.pt", "README.md",
    "model.safetensors", "scores.jsonl", "corruptions.jsonl", "hidden.jsonl", "branches.jsonl", "summary.json",
    "analysis.jsonl", "gallery.png", "verdicts.jsonl", "stacked.json", "rows.jsonl", "census.json", "census.jsonl",
    "overlap.jsonl",
}  # fmt: skip


class BusyError(OSError):
    """A run's folder is in use."""


@contextmanager
def alone(lock: Path, what: str, timeout: float = 0.0) -> Iterator[None]:
    """Hold ``lock`` inside the block, and write into its folder only while it is the same one, see :mod:`easybn.locks`.

    Args:
        lock: a file in the folder to work in; the folder is made if it does not exist.
        what: kind of process, for the message: "process", "study".
        timeout: seconds to wait for another process.

    Raises:
        BusyError: another process holds the lock; the message says which, on which machine and since when.
        easybn.files.Removed: on writing, if the folder was removed or made anew, or the lock taken over.
    """
    folder = lock.parent
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(lock, folder, timeout))
        except Held as error:
            who = f" ({error})" * bool(str(error))
            message = f"another {what} is at work in {folder}{who}: wait for it, or give another --out"
            raise BusyError(message) from error
        yield


def environment() -> dict[str, Any]:
    """Versions, commit, machine and threads of this process, for a run's ``environment.json``."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {"easybn": __version__}
        | {name: _version(name) for name in ("torch", "torchvision", "timm", "numpy")},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": Processes.here().count,
        "winograd_channels": training_channels(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source tree, with a ``+`` if files were changed; None for an installed wheel."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def train(
    experiment: Experiment,
    folder: Path | str,
    *,
    observers: Sequence[Observer] = (),
    device: torch.device | str | None = None,
    data_on_device: bool | None = None,
    checkpoint_seconds: float = 60.0,
    any_processes: bool = False,
    on_note: Callable[[str], object] = lambda note: None,
) -> Run:
    """Train in ``folder``: from the start, from its checkpoint, or not at all if the run is finished.

    A damaged model is made again from the checkpoint. In a process group of torch with several processes, all of them
    call this; the first one writes the folder.

    Args:
        observers, device, data_on_device, checkpoint_seconds, any_processes: see :func:`easybn.fit`.
        on_note: called with each note about the data set before the first step.

    Raises:
        ValueError: the folder holds another run, or the experiment is not possible.
        Damaged: a ValueError; a file of the run is damaged and cannot be made again.
        BusyError: another process is working there.
        easybn.files.Removed: the folder was removed, or made anew, during the training.
        easybn.train.fit.Diverged, easybn.interrupt.Interrupted: see :func:`easybn.fit`.
    """
    if device is not None:
        usable_device(device)  # a wrong device leaves no folder behind
    run, processes = Run(Path(folder)), Processes.here()
    with ExitStack() as stack:
        training: _Beginning | None = None

        def begin() -> bytes:
            nonlocal training
            training = _begin(experiment, run, stack, on_note)
            return json.dumps(None if training is None else [training.winograd_channels]).encode()

        begun = json.loads(processes.from_first(begin))
        if begun is None:
            return run
        asked = training.asked if training else prepare(experiment)  # the first process has filled the cache by now
        with winograd_from(begun[0]):
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
                any_processes=any_processes,
            )

        def end() -> bytes:
            assert training is not None
            _end(experiment, run, fitted.model, training)
            return b""

        processes.from_first(end)
    return run


@dataclass(frozen=True)
class _Beginning:
    """What the process that writes a run's folder keeps from before the training.

    Args:
        winograd_channels: see :func:`_winograd_channels`.
        described: content of files that must be the same afterwards.
        damaged: what is wrong with the model that is made again.
    """

    asked: Prepared
    winograd_channels: int | None
    described: dict[Path, bytes]
    damaged: Damaged | None


def _begin(experiment: Experiment, run: Run, stack: ExitStack, on_note: Callable[[str], object]) -> _Beginning | None:
    """Lock the folder until ``stack`` ends, and describe the experiment there; None if the run is finished."""
    run.check(experiment)
    # before the folder is made, so that a wrong name of the data or the model leaves none behind
    asked = None if run.folder.exists() else prepare(experiment)
    stack.enter_context(run.locked())
    run.check(experiment)
    damaged: Damaged | None = None
    if run.finished:
        try:
            run.check_complete()
            return None
        except Damaged as error:
            if not (run.folder / "checkpoint.pt").exists():
                advice = "there is no checkpoint.pt to make it again from: restore it, or delete it to train again"
                raise Damaged(f"{error}; {advice}") from error
            damaged = error
    asked = asked or prepare(experiment)
    run.claim(experiment, asked.data)
    for note in asked.notes:
        on_note(note)
    sessions = run.sessions
    channels = _winograd_channels(sessions)
    with winograd_from(channels):
        now = environment()
    write_json(run.folder / "environment.json", [*sessions, now])
    described = (run.folder / "config.json", run.folder / "environment.json")
    return _Beginning(asked, now["winograd_channels"], {path: path.read_bytes() for path in described}, damaged)


def _end(experiment: Experiment, run: Run, model: nn.Module, training: _Beginning) -> None:
    """Write the model card and the model of a training that has ended."""
    for path, content in training.described.items():  # they may have been removed during the training
        if not path.exists():
            write_text(path, content.decode())
        elif path.read_bytes() != content:
            raise Damaged(f"{path} was changed during the training: restore it, or delete the folder")
    # the model comes last: it means that everything else is there
    write_text(run.folder / "README.md", card(experiment, training.asked.data, model, run.metrics, run.sessions))
    path = run.folder / "model.safetensors"
    if training.damaged is not None:
        aside = path.replace(path.with_name(path.name + ".corrupt"))
        warnings.warn(f"{training.damaged}; put aside as {aside.name} and made again from checkpoint.pt", stacklevel=4)
    of = {"config": experiment.digest, "epochs": len(run.metrics)}
    weights.save(model, path, training.asked.description, training.asked.data, of)
    checkpoint.previous(run.folder / "checkpoint.pt").unlink(missing_ok=True)


def _winograd_channels(sessions: Sequence[dict[str, Any]]) -> int | None:
    """The threshold of Winograd's algorithm that a run began with; None for this processor's if it begins now."""
    if not sessions:
        return None
    return int(sessions[0].get("winograd_channels", CHANNELS))  # runs from before it was recorded used this one
