"""What a study is asked to do: runs by name, and what is measured of every one."""

from collections import Counter
from dataclasses import dataclass

from ..evaluation.config import EvaluateConfig
from ..runs.config import Experiment

CLEAN = EvaluateConfig.of_run(protocols=())
"""Accuracy on the whole test split: PGD under no protocol."""


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Args:
        name: of its folder, the seed included.
        experiment: what is trained.
        evaluations: what is measured of it, in order.
        code: FILE.py:CLASS of its recipe if that was not imported: it can be listed, and not be trained.
    """

    name: str
    experiment: Experiment
    evaluations: tuple[EvaluateConfig, ...] = (CLEAN,)
    code: str | None = None


@dataclass(frozen=True)
class Study:
    """Runs that are made, measured and compared together.

    Args:
        name: of the folder of their folders.
        runs: in the order in which they are started.

    Raises:
        ValueError: no run, or two of one name.
    """

    name: str
    runs: tuple[Planned, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError(f"the study {self.name} has no runs")
        counts = Counter(run.name for run in self.runs)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{counts[twice[0]]} runs of the study {self.name} are called {twice[0]}: name them apart")
