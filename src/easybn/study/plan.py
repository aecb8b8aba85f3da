"""What a study consists of: runs by name, the evaluations of each, and which of both are done."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..evaluation.config import EvaluateConfig
from ..files import Removed, sweep
from ..json_files import Damaged, read_json, read_rows, write_json
from ..rows import EVALUATED as _READ
from ..rows import SCORES, needed
from ..runs.config import Experiment
from ..runs.evaluate import is_measured
from ..runs.run import Run, alone

CLEAN = EvaluateConfig.of_run(protocols=())
"""Accuracy on all test images: PGD under no protocol."""


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Args:
        name: name of its folder, with the seed.
        experiment: what is trained.
        evaluations: what is measured, in order.
        code: my.py:MyRecipe if its recipe was not loaded; then it can be listed, but not trained.
    """

    name: str
    experiment: Experiment
    evaluations: tuple[EvaluateConfig, ...] = (CLEAN,)
    code: str | None = None


@dataclass(frozen=True)
class Study:
    """Runs that are trained, evaluated and compared together.

    Args:
        name: name of the folder of their folders.
        runs: in the order in which they are started.
        attacks_not_loaded: names of attacks in code that was not loaded; evaluations by them are not in the runs.

    Raises:
        ValueError: no run, or two of one name.
    """

    name: str
    runs: tuple[Planned, ...]
    attacks_not_loaded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError(f"the study {self.name} has no runs")
        counts = Counter(run.name for run in self.runs)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{counts[twice[0]]} runs of the study {self.name} are called {twice[0]}: name them apart")


# What a study keeps in a run's folder beside the run's own files, and the state of the run that the folder shows.
#
# ================ =====================================================================
# evaluated.json   the evaluations that are done, with their time and findings
# failed.json      why the run failed; it is not tried again until it is removed
# study.log        output of the process that did the run
# .study.lock      held by the study that works on the run: the system frees it when its process ends
# ================ =====================================================================

EVALUATED, FAILED, LOG = "evaluated.json", "failed.json", "study.log"
_FIELDS = {name: needed(field) for name, field in _READ.items()}
LOCKS = (".study.lock", ".lock")  # held by a study; by a training or an evaluation


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Let one study at a time work in a run's folder; BusyError if another one does."""
    with alone(folder / LOCKS[0], "study"):
        sweep(folder, {EVALUATED, FAILED}.__contains__)
        yield


def is_busy(folder: Path) -> bool:
    """Whether any process is working in a run's folder."""
    for name in LOCKS:
        if not (folder / name).exists():
            continue
        try:
            with FileLock(folder / name, timeout=0):
                pass
        except Timeout:
            return True
    return False


def evaluations_done(folder: Path) -> list[dict[str, Any]]:
    """One entry per evaluation that is done: digest, what was asked, seconds, and findings of the diagnosis."""
    try:
        return read_json(folder / EVALUATED, [], _FIELDS)
    except ValueError as error:
        raise ValueError(f"{error}: delete it; what scores.jsonl holds is not measured again") from error


def missing_evaluations(folder: Path, wanted: tuple[EvaluateConfig, ...]) -> list[EvaluateConfig]:
    """Evaluations that are not done, or whose rows are gone from the scores."""
    done = {entry["digest"] for entry in evaluations_done(folder)}
    scores = read_rows(folder / "scores.jsonl", SCORES)
    return [config for config in wanted if config.digest not in done or not is_measured(config, scores)]


def record_evaluation(folder: Path, config: EvaluateConfig, seconds: float, findings: list[dict[str, Any]]) -> None:
    """Record that an evaluation is done and its rows are in the scores."""
    entry = {"digest": config.digest, "wanted": config.description, "seconds": round(seconds, 1), "findings": findings}
    others = [each for each in evaluations_done(folder) if each["digest"] != config.digest]
    write_json(folder / EVALUATED, [*others, entry])


def failure(folder: Path) -> str | None:
    """Why the run failed, in one line; None if it did not."""
    path = folder / FAILED
    if not path.exists():
        return None
    try:
        return str(read_json(path, {})["error"])
    except (ValueError, KeyError):
        return f"{path} is damaged, so why the run failed is not known: delete it, or use --retry, to try again"


def record_failure(folder: Path, error: str) -> None:
    """Record that the run failed, so that it is not tried again until :func:`clear_failure`; does nothing if the folder
    is gone."""
    with suppress(Removed):
        if folder.exists():
            write_json(folder / FAILED, {"error": " ".join(error.split()), "log": LOG})


def clear_failure(folder: Path) -> None:
    """Remove the record of a failure, so that the run is tried again."""
    (folder / FAILED).unlink(missing_ok=True)


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
        """Time spent so far."""
        return self.trained_seconds + sum(self.evaluation_seconds.values())

    def __str__(self) -> str:
        if self.kind == "training":
            return f"epoch {self.epoch} of {self.epochs}"
        return f"evaluation {self.measured} of {self.evaluations}" if self.kind == "evaluating" else self.kind


def state(planned: Planned, folder: Path) -> State:
    """State of the run; a folder that holds another experiment is a failure."""
    run, error = Run(folder), failure(folder)
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    remaining, finished = len(planned.evaluations), False
    try:
        run.check(planned.experiment)
        if run.started:
            rows, scores, entries = run.metrics, run.scores, evaluations_done(folder)
            remaining = len(missing_evaluations(folder, planned.evaluations))
        finished = run.finished and _complete(run)
    except (ValueError, KeyError, TypeError, OSError) as problem:  # another run's folder, or a damaged file
        error = error or str(problem)
    return State(
        kind=_kind(run, finished, error, remaining),
        epoch=rows[-1]["epoch"] if rows else 0,
        epochs=planned.experiment.training.epochs,
        measured=len(planned.evaluations) - remaining,
        evaluations=len(planned.evaluations),
        trained_seconds=rows[-1].get("seconds", 0.0) if rows else 0.0,
        evaluation_seconds={entry["digest"]: entry["seconds"] for entry in entries},
        clean=_clean(scores),
        error=error or "",
        warnings=sum(finding["severity"] == "warning" for entry in entries for finding in entry["findings"]),
    )


def _complete(run: Run) -> bool:
    """Whether a finished run has all its files; False if they can be made again from its checkpoint, else Damaged."""
    try:
        run.check_complete()
    except Damaged:
        if not (run.folder / "checkpoint.pt").exists():
            raise
        return False
    return True


def _kind(run: Run, finished: bool, error: str | None, remaining: int) -> Kind:
    if error:
        return "failed"
    if finished:
        return "evaluating" if remaining else "done"
    return "training" if run.started else "waiting"


def _clean(scores: list[dict[str, Any]]) -> float | None:
    """Clean accuracy of the deployed branch, on the most images."""
    rows = [row for row in scores if row["attack"] == "clean" and row.get("branch", "main") == "main"]
    return max(rows, key=lambda row: row["n"])["accuracy"] if rows else None
