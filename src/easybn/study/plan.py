"""What a study consists of: runs by name, and the evaluations of each."""

from collections import Counter
from dataclasses import dataclass

from ..evaluation.config import EvaluateConfig
from ..runs.config import Experiment

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
