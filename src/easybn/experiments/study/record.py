"""What a study keeps in a run's folder beside the run's own files: what was measured, how it failed, who is at work."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...files import write_text
from ...rows import read_json
from ..run import BusyError
from .plan import Wanted

EVALUATED, FAILED, LOG = "evaluated.json", "failed.json", "study.log"
_LOCKS = (".study.lock", ".lock")  # of a study, and of a training or an evaluation by hand


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """One study at a time in a run's folder; BusyError if another is at work there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCKS[0], timeout=0):
            yield
    except Timeout as error:
        raise BusyError(f"another study is at work in {folder}") from error


def busy(folder: Path) -> bool:
    """Whether any process is at work in a run's folder."""
    for name in _LOCKS:
        if not (folder / name).exists():
            continue
        try:
            with FileLock(folder / name, timeout=0):
                pass
        except Timeout:
            return True
    return False


def evaluated(folder: Path) -> list[dict[str, Any]]:
    """An entry for each evaluation done: digest, what was asked, seconds, and the findings of the diagnosis."""
    path = folder / EVALUATED
    # without its rows an evaluation has to be made again
    return read_json(path, []) if (folder / "scores.jsonl").exists() else []


def missing(folder: Path, wanted: tuple[Wanted, ...]) -> list[Wanted]:
    """What is not measured yet."""
    done = {entry["digest"] for entry in evaluated(folder)}
    return [each for each in wanted if each.digest not in done]


def add_evaluated(folder: Path, wanted: Wanted, seconds: float, findings: list[dict[str, Any]]) -> None:
    """Note that its rows are among the scores."""
    entry = {"digest": wanted.digest, "wanted": wanted.description, "seconds": round(seconds, 1), "findings": findings}
    write_text(folder / EVALUATED, json.dumps([*evaluated(folder), entry], indent=2) + "\n")


def failure(folder: Path) -> str | None:
    """Why the run failed, in one line; None if it did not."""
    path = folder / FAILED
    return json.loads(path.read_text())["error"] if path.exists() else None


def fail(folder: Path, error: str) -> None:
    """Note that the run failed; it is left alone until :func:`forgive`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FAILED, json.dumps({"error": " ".join(error.split()), "log": LOG}, indent=2) + "\n")


def forgive(folder: Path) -> None:
    """Forget the failure."""
    (folder / FAILED).unlink(missing_ok=True)
