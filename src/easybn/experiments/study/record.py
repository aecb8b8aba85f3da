"""What a study keeps in a run's folder beside the run's own files: what was measured, how it failed, who is at work."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...files import Removed, guarding, sweep
from ...rows import EVALUATED as _READ
from ...rows import SCORES, needed, read_json, read_rows
from ...sealed import write_json
from ..run import alone
from .plan import Wanted

EVALUATED, FAILED, LOG = "evaluated.json", "failed.json", "study.log"
_FIELDS = {name: needed(field) for name, field in _READ.items()}
_LOCKS = (".study.lock", ".lock")  # of a study, and of a training or an evaluation by hand


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """One study at a time in a run's folder; BusyError if another is at work there."""
    with alone(folder / _LOCKS[0], "study"):
        sweep(folder, {EVALUATED, FAILED}.__contains__)
        with guarding(folder, folder / _LOCKS[0]):
            yield


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
    try:
        return read_json(folder / EVALUATED, [], _FIELDS)
    except ValueError as error:
        raise ValueError(f"{error}: delete it; what scores.jsonl holds is not measured again") from error


def missing(folder: Path, wanted: tuple[Wanted, ...]) -> list[Wanted]:
    """What is not measured yet, or has lost its rows."""
    done = {entry["digest"] for entry in evaluated(folder)}
    scores = read_rows(folder / "scores.jsonl", SCORES)
    return [each for each in wanted if each.digest not in done or not each.what.has_rows(scores, each.branch or "main")]


def add_evaluated(folder: Path, wanted: Wanted, seconds: float, findings: list[dict[str, Any]]) -> None:
    """Note that its rows are among the scores."""
    entry = {"digest": wanted.digest, "wanted": wanted.description, "seconds": round(seconds, 1), "findings": findings}
    others = [each for each in evaluated(folder) if each["digest"] != wanted.digest]
    write_json(folder / EVALUATED, [*others, entry])


def failure(folder: Path) -> str | None:
    """Why the run failed, in one line; None if it did not."""
    path = folder / FAILED
    if not path.exists():
        return None
    try:
        return str(read_json(path, {})["error"])
    except (ValueError, KeyError):
        return f"{path} is damaged, so that why the run failed is not known: delete it, or --retry, to try again"


def fail(folder: Path, error: str) -> None:
    """Note that the run failed; it is left alone until :func:`forgive`. In a folder that is gone nothing is noted."""
    with suppress(Removed):
        if folder.exists():
            write_json(folder / FAILED, {"error": " ".join(error.split()), "log": LOG})


def forgive(folder: Path) -> None:
    """Forget the failure."""
    (folder / FAILED).unlink(missing_ok=True)
