"""Where a run of a study stands; its folder alone says it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...sealed import Damaged
from ..run import Run
from .plan import Planned
from .record import evaluated, failure, missing

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
