"""Where a run of a study stands; its folder alone says it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..files import Removed, guarding, sweep
from ..json_files import Damaged, read_json, read_rows, write_json
from ..rows import EVALUATED as _READ
from ..rows import SCORES, needed
from ..runs.run import Run, alone
from .plan import Planned, Wanted

# What a study keeps in a run's folder beside the run's own files: what was measured, how it failed, who is at work.

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


Kind = Literal["waiting", "training", "evaluating", "done", "failed"]


@dataclass(frozen=True)
class State:
    """What a run's folder says.

    Args:
        kind: "training" and "evaluating" from the first checkpoint on, whether or not anyone is at work.
        epoch: epochs done; epochs: of the training.
        measured: evaluations done; evaluations: all that are wanted.
        trained_seconds: of the epochs done.
        evaluation_seconds: {digest: seconds} of the evaluations done.
        clean: accuracy on the test images, once it is measured.
        error: why it failed.
        warnings: what the diagnosis of its evaluations warns of.
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

    @property
    def seconds(self) -> float:
        """Spent so far."""
        return self.trained_seconds + sum(self.evaluation_seconds.values())

    def __str__(self) -> str:
        if self.kind == "training":
            return f"epoch {self.epoch} of {self.epochs}"
        return f"evaluation {self.measured} of {self.evaluations}" if self.kind == "evaluating" else self.kind


def state(planned: Planned, folder: Path) -> State:
    """Where the run stands; a folder that holds another experiment is a failure."""
    run, error = Run(folder), failure(folder)
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    left, finished = len(planned.wanted), False
    try:
        run.check(planned.experiment)
        if run.begun:
            rows, scores, entries = run.metrics, run.scores, evaluated(folder)
            left = len(missing(folder, planned.wanted))
        finished = run.finished and _whole(run)
    except (ValueError, KeyError, TypeError, OSError) as problem:  # another run's folder, or a damaged file
        error = error or str(problem)
    return State(
        kind=_kind(run, finished, error, left),
        epoch=rows[-1]["epoch"] if rows else 0,
        epochs=planned.experiment.training.epochs,
        measured=len(planned.wanted) - left,
        evaluations=len(planned.wanted),
        trained_seconds=rows[-1].get("seconds", 0.0) if rows else 0.0,
        evaluation_seconds={entry["digest"]: entry["seconds"] for entry in entries},
        clean=_clean(scores),
        error=error or "",
        warnings=sum(finding["severity"] == "warning" for entry in entries for finding in entry["findings"]),
    )


def _whole(run: Run) -> bool:
    """Whether a finished run has all it should; False if it can be made again from its checkpoint, else Damaged."""
    try:
        run.check_whole()
    except Damaged:
        if not (run.folder / "checkpoint.pt").exists():
            raise
        return False
    return True


def _kind(run: Run, finished: bool, error: str | None, left: int) -> Kind:
    if error:
        return "failed"
    if finished:
        return "evaluating" if left else "done"
    return "training" if run.begun else "waiting"


def _clean(scores: list[dict[str, Any]]) -> float | None:
    """Of the deployed branch, on the most images."""
    rows = [row for row in scores if row["attack"] == "clean" and row.get("branch", "main") == "main"]
    return max(rows, key=lambda row: row["n"])["accuracy"] if rows else None
