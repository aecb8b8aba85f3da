"""How long a training takes on this machine, from a few of its steps and one validation batch."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from ..data import Split
from ..train.fit import fit, validate
from ..train.observers import Observer, TrainingState
from .config import Experiment
from .prepare import prepare

WARM_UP = 2  # steps that allocate memory and compile, which are not timed


@dataclass(frozen=True)
class Estimate:
    """Times that were measured.

    Args:
        steps: steps of the whole training.
        batch_size: images per step.
        timed: steps that were timed.
        warm: warm-up steps before those.
        first_seconds: time of the warm-up steps, compilation included.
        step_seconds: mean time of a step.
        validation_seconds: time of all validations of the training, from one timed batch.
    """

    steps: int
    batch_size: int
    timed: int
    warm: int
    first_seconds: float
    step_seconds: float
    validation_seconds: float

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.step_seconds

    @property
    def seconds(self) -> float:
        """Estimated time of the whole training."""
        return self.first_seconds + (self.steps - self.warm) * self.step_seconds + self.validation_seconds


class Stopwatch(Observer):
    """Times steps, and ends the training after ``most`` of them or after ``seconds``.

    Args:
        seconds: counted from the end of the warm-up; at least one step is timed.
        most: number of steps without the warm-up.
    """

    def __init__(self, seconds: float, most: int):
        self._seconds, self._most = seconds, most
        self.marks: list[float] = []
        self.state: TrainingState | None = None

    def start(self, state: TrainingState) -> None:
        self.state = state
        self.marks.append(_now(state))

    def step(self, state: TrainingState) -> None:
        self.marks.append(_now(state))
        timed = len(self.marks) - 1 - WARM_UP
        if timed >= 1 and (timed >= self._most or self.marks[-1] - self.marks[WARM_UP] > self._seconds):
            state.stop = True


def estimate(
    experiment: Experiment, device: torch.device | str | None = None, *, seconds: float = 10.0, most: int = 50
) -> Estimate:
    """Time the first steps of the training that ``experiment`` describes; nothing is written but the data set's cache.

    Args:
        device: as of :func:`easybn.fit`.
        seconds, most: measure for at most this time, and this many steps.

    Raises:
        ValueError: the experiment is not possible.
    """
    asked = prepare(experiment)
    watch = Stopwatch(seconds, most)
    fitted = fit(asked.model, experiment.recipe, asked.train, experiment.training, observers=[watch], device=device)
    state, marks = watch.state, watch.marks
    assert state is not None
    # a training of very few steps ends during the warm-up
    warm = min(WARM_UP, len(marks) - 2)
    timed = len(marks) - 1 - warm
    first, each = marks[warm] - marks[0], (marks[-1] - marks[warm]) / timed
    validation = 0.0
    if asked.val is not None:
        size = 4 * state.batch_size
        part = asked.val.subset(torch.arange(min(size, len(asked.val))))
        validation = _validation_seconds(fitted.branched, state, part, size)
        validation *= len(asked.val) / len(part) * experiment.training.epochs
    return Estimate(state.total_steps, state.batch_size, timed, warm, first, each, validation)


def _validation_seconds(model: nn.Module, state: TrainingState, part: Split, size: int) -> float:
    began = _now(state)
    validate(model, state.recipe.branches, part, size)
    return _now(state) - began


def _now(state: TrainingState) -> float:
    """The time once the device has finished its work."""
    if next(state.model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.monotonic()
