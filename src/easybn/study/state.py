"""The state of a run of a study, read from its folder, and who works on it; nothing here needs torch.

What a study keeps in a run's folder beside the run's own files:

================ =====================================================================
evaluated.json   the evaluations that are done, with their time and findings
failed.json      why the run failed; it is not tried again until it is removed
retried.json     that it ran out of memory beside other runs, and is tried again alone
study.log        output of the process that did the run
.study.lock      held by the study that works on the run: the system frees it when its process ends
================ =====================================================================
"""

import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..files import Removed
from ..json_files import Damaged, Row, read_json, read_last_row, read_rows, write_json
from ..locks import holder
from ..rows import EVALUATED as _READ
from ..rows import METRICS, SCORES, needed
from ..runs.description import check_description
from ..runs.measured import WantedRows

EVALUATED, FAILED, RETRIED, LOG = "evaluated.json", "failed.json", "retried.json", "study.log"
LOCKS = (".study.lock", ".lock")  # held by a study; by a training or an evaluation
_FIELDS = {name: needed(field) for name, field in _READ.items()}
_SIGNS = ("metrics.jsonl", "checkpoint.pt", "scores.jsonl", LOG)  # files that a working process writes now and then


@dataclass(frozen=True)
class Expected:
    """What a run is to become, as plain data: its folder is compared with this.

    Args:
        name: of its folder.
        experiment: what is trained, as :func:`easybn.runs.description.describe` gives it.
        kind: digest of the experiment but for its seed: runs of one kind take equally long.
        evaluations: what is measured, in order.
    """

    name: str
    experiment: dict[str, Any]
    kind: str
    evaluations: tuple[WantedRows, ...]

    @property
    def epochs(self) -> int:
        return int(self.experiment["training"]["epochs"])


Kind = Literal["waiting", "training", "evaluating", "done", "failed"]


@dataclass(frozen=True)
class State:
    """State of a run, read from its folder.

    Args:
        kind: "training" and "evaluating" from the first checkpoint on, whether or not a process is working on it.
        epoch, epochs: epochs done, and epochs of the whole training.
        measured, evaluations: evaluations done, and all that were asked for.
        trained_seconds: time of the epochs done.
        evaluation_seconds: {digest: seconds} of the evaluations done.
        clean: accuracy on the test images, once it is measured.
        error: why the run failed.
        warnings: number of warnings of the diagnosis.
        retried: why the run is, or was, tried again alone: it ran out of memory beside others.
    """

    kind: Kind
    epoch: int
    epochs: int
    measured: int
    evaluations: int
    trained_seconds: float
    evaluation_seconds: dict[str, float]
    clean: float | None = None
    error: str = ""
    warnings: int = 0
    retried: str = ""

    @property
    def seconds(self) -> float:
        """Time spent so far."""
        return self.trained_seconds + sum(self.evaluation_seconds.values())

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be done: it is done, or has failed."""
        return self.kind in ("done", "failed")

    def __str__(self) -> str:
        if self.kind == "training":
            return f"epoch {self.epoch} of {self.epochs}"
        return f"evaluation {self.measured} of {self.evaluations}" if self.kind == "evaluating" else self.kind


def read_state(expected: Expected, folder: Path, check_complete: Callable[[Path], object] | None = None) -> State:
    """State of a run; a folder that holds another experiment is a failure.

    Args:
        check_complete: called with the folder of a finished run; raises Damaged unless all its files are there and
            whole (:meth:`easybn.runs.run.Run.check_complete`). None for a quick look, which neither reads the weights
            nor more than the last row of metrics.jsonl, and tests no other checksums; what is done then is done by all
            that these rows say.
    """
    names, error = set[str](), None
    try:
        names = {path.name for path in folder.iterdir()}
        error = failure(folder) if FAILED in names else None
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as problem:
        error = str(problem)
    started, finished = not names.isdisjoint(("model.safetensors", "checkpoint.pt")), "model.safetensors" in names
    last: Row | None = None
    scores: list[Row] = []
    entries: list[Row] = []
    remaining = len(expected.evaluations)
    try:
        if started:
            whole = check_complete is not None
            check_description(folder, expected.experiment, whole)
            last = _last_epoch(folder / "metrics.jsonl", whole)
            scores = read_rows(folder / "scores.jsonl", SCORES, verify=whole)
            entries = evaluations_done(folder, whole)
            remaining = len(missing(expected.evaluations, entries, scores))
        if finished and check_complete is not None:
            finished = _complete(folder, check_complete)
    except (ValueError, KeyError, TypeError, OSError) as problem:  # another run's folder, or a damaged file
        error = error or str(problem)
    if error:
        kind: Kind = "failed"
    elif finished:
        kind = "evaluating" if remaining else "done"
    else:
        kind = "training" if started else "waiting"
    return State(
        kind=kind,
        epoch=last["epoch"] if last else 0,
        epochs=expected.epochs,
        measured=len(expected.evaluations) - remaining,
        evaluations=len(expected.evaluations),
        trained_seconds=last.get("seconds", 0.0) if last else 0.0,
        evaluation_seconds={entry["digest"]: entry["seconds"] for entry in entries},
        clean=_clean(scores),
        error=error or "",
        warnings=sum(finding["severity"] == "warning" for entry in entries for finding in entry["findings"]),
        retried=retry_reason(folder) if RETRIED in names else "",
    )


def _last_epoch(path: Path, every: bool) -> Row | None:
    """The last row of metrics.jsonl, of which ``every`` row is checked, or only this one; None if there is none."""
    if not every:
        return read_last_row(path, METRICS)
    rows = read_rows(path, METRICS, cut="legacy")
    return rows[-1] if rows else None


def _complete(folder: Path, check_complete: Callable[[Path], object]) -> bool:
    """Whether a finished run has all its files; False if they can be made again from its checkpoint, else Damaged."""
    try:
        check_complete(folder)
    except Damaged:
        if not (folder / "checkpoint.pt").exists():
            raise
        return False
    return True


def _clean(scores: list[Row]) -> float | None:
    """Clean accuracy of the deployed branch, on the most images."""
    rows = [row for row in scores if row["attack"] == "clean" and row.get("branch", "main") == "main"]
    return max(rows, key=lambda row: row["n"])["accuracy"] if rows else None


# Evaluations that are done.


def evaluations_done(folder: Path, verify: bool = True) -> list[Row]:
    """One entry per evaluation that is done: digest, what was asked, seconds, and findings of the diagnosis.

    Args:
        verify: whether checksums are tested.
    """
    try:
        return read_json(folder / EVALUATED, [], _FIELDS, verify)
    except ValueError as error:
        raise ValueError(f"{error}: delete it; what scores.jsonl holds is not measured again") from error


def missing(wanted: Sequence[WantedRows], done: Sequence[Row], scores: Sequence[Row]) -> list[WantedRows]:
    """Evaluations that are not done, or whose rows are gone from the scores."""
    digests = {entry["digest"] for entry in done}
    return [rows for rows in wanted if rows.digest not in digests or not rows.are_in(scores)]


# Failures.


def failure(folder: Path) -> str | None:
    """Why the run failed, in one line; None if it did not."""
    path = folder / FAILED
    if not path.exists():
        return None
    try:
        return str(read_json(path, {})["error"])
    except (ValueError, KeyError):
        return f"{path} is damaged, so why the run failed is not known: delete it, or use --retry, to try again"


def lacked_memory(folder: Path) -> bool:
    """Whether the run failed because there was not enough memory."""
    with suppress(ValueError):
        return read_json(folder / FAILED, {}).get("memory") is True
    return False


def record_failure(folder: Path, error: str, memory: bool = False) -> None:
    """Record that the run failed, so that it is not tried again until :func:`clear_failure`.

    Does nothing if the folder is gone.

    Args:
        memory: whether there was not enough memory.
    """
    note = {"error": " ".join(error.split()), "log": LOG}
    with suppress(Removed):
        if folder.exists():
            write_json(folder / FAILED, {**note, "memory": True} if memory else note)


def record_retry(folder: Path, error: str) -> None:
    """Record that the run ran out of memory beside others, so that it is tried again alone."""
    with suppress(Removed):
        if folder.exists():
            write_json(folder / RETRIED, {"error": " ".join(error.split()), "log": LOG})
            (folder / FAILED).unlink(missing_ok=True)
            with suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as log:
                log.write(f"--- {error}: other runs were beside it, so it is tried again alone\n")


def retry_reason(folder: Path) -> str:
    """What :func:`record_retry` recorded; empty if it recorded nothing."""
    try:
        return str(read_json(folder / RETRIED, {}).get("error", ""))
    except ValueError:
        return "out of memory"


def clear_failure(folder: Path) -> None:
    """Remove the records of a failure, so that the run is tried again."""
    for name in (FAILED, RETRIED):
        (folder / name).unlink(missing_ok=True)


# Who works on a run.


@dataclass(frozen=True)
class Worker:
    """A process that works on a run.

    Args:
        who: what it says of itself: its number, its machine, since when.
        seen: seconds since its last sign, if it is on another machine, whose locks cannot be asked here.
    """

    who: str
    seen: float | None = None

    def __str__(self) -> str:
        return self.who if self.seen is None else f"{self.who} (seen {self.seen / 60:.0f} minutes ago)"


QUIET = 3600.0
"""Seconds after which a process on another machine that wrote nothing no longer counts as at work."""


def at_work(folder: Path) -> Worker | None:
    """The process that works on a run, by the note beside the lock that it holds; None if there is none.

    A lock without a note is not looked at, so that looking does not get in the way of a process that starts.
    """
    for name in LOCKS:
        note = folder / f"{name}.by"
        if not note.exists():
            continue
        who = holder(note).partition(": ")[0]  # without its command line
        if _is_held(folder / name):
            return Worker(who)
        if who and not re.search(rf" on {re.escape(socket.gethostname())}[ ,]", who):
            seen = time.time() - max(_changed(folder / each) for each in (note.name, *_SIGNS))
            if seen < QUIET:
                return Worker(who, max(0.0, seen))
    return None


def is_busy(folder: Path) -> bool:
    """Whether any process of this machine is working in a run's folder."""
    return any((folder / name).exists() and _is_held(folder / name) for name in LOCKS)


def _is_held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@dataclass
class StudyStatus:
    """Where the runs of a study are.

    Args:
        states: state of every run, by name, in the order of the study.
        here: names of the runs that this study is working on.
        elsewhere: names of the runs that another process is working on.
    """

    states: dict[str, State]
    here: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
