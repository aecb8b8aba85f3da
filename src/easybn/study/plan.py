"""What a study consists of: runs by name, the evaluations of each, and which of both are done."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..evaluation.config import EvaluateConfig
from ..evaluation.corruptions import AnyConfig
from ..files import sweep
from ..json_files import read_rows, write_json
from ..rows import SCORES
from ..runs.config import Experiment
from ..runs.description import describe
from ..runs.measured import WantedRows
from ..runs.run import Run, alone
from .state import EVALUATED, FAILED, LOCKS, RETRIED, Expected, State, evaluations_done, missing, read_state

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
    evaluations: tuple[AnyConfig, ...] = (CLEAN,)
    code: str | None = None

    @cached_property
    def expected(self) -> Expected:
        """What its folder is compared with."""
        kind = but_for_seed(self.experiment).digest
        return Expected(self.name, describe(self.experiment), kind, tuple(map(WantedRows.of, self.evaluations)))


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


def but_for_seed(experiment: Experiment) -> Experiment:
    """The experiment with seed 0, so that runs that differ only in the seed are equal."""
    return replace(experiment, training=replace(experiment.training, seed=0))


def state(planned: Planned, folder: Path) -> State:
    """State of the run by all its files, whose checksums are verified, see :func:`.state.read_state`."""
    return read_state(planned.expected, folder, lambda of: Run(of).check_complete())


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Let one study at a time work in a run's folder; BusyError if another one does."""
    with alone(folder / LOCKS[0], "study"):
        sweep(folder, {EVALUATED, FAILED, RETRIED}.__contains__)
        yield


def missing_evaluations(folder: Path, wanted: Sequence[AnyConfig]) -> list[AnyConfig]:
    """Evaluations that are not done, or whose rows are gone from the scores."""
    scores = read_rows(folder / "scores.jsonl", SCORES)
    left = {rows.digest for rows in missing([*map(WantedRows.of, wanted)], evaluations_done(folder), scores)}
    return [config for config in wanted if config.digest in left]


def record_evaluation(folder: Path, config: AnyConfig, seconds: float, findings: list[dict[str, Any]]) -> None:
    """Record that an evaluation is done and its rows are in the scores."""
    entry = {"digest": config.digest, "wanted": config.description, "seconds": round(seconds, 1), "findings": findings}
    others = [each for each in evaluations_done(folder) if each["digest"] != config.digest]
    write_json(folder / EVALUATED, [*others, entry])
