"""The data and the model of an experiment before the first training step, and how long the training will take."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .. import data, models
from ..data import Split
from ..keyed_random import torch_generators
from ..models import weights
from ..models.registry import FROM_ELSEWHERE, check_stored_options, is_code
from ..modes import evaluating
from ..norm.convert import convert
from ..train.fit import fit, validate
from ..train.observers import Observer, TrainingState
from .config import DATA_OPTIONS, Experiment, SampleIds, without


@dataclass(frozen=True)
class Prepared:
    """What a training starts from.

    Args:
        model: new, with the recipe's branches, its weights drawn by the experiment's seed.
        description: the arguments of :func:`easybn.models.build`, without the source of pretrained weights.
        data: name, shape and classes of the data.
        train, val: the images to train on, and those held out for validation, if any.
        notes: notes about the data set.
    """

    model: nn.Module
    description: dict[str, Any]
    data: weights.TrainedOn
    train: Split
    val: Split | None
    notes: tuple[str, ...] = ()


def prepare(experiment: Experiment) -> Prepared:
    """Load the experiment's data and build its model; nothing is written but the data set's cache.

    Raises:
        ValueError: the experiment is not possible.
    """
    source = load_data(experiment)
    seed = experiment.training.seed
    train_split, val_split = source.train, None
    if held_out := round(experiment.validation * len(source.train)):
        train_split, val_split = source.holdout(held_out, seed)
    if experiment.leave_out is not None:
        train_split = without(train_split, source, SampleIds.read(experiment.leave_out))
    shape = {name: value for name, value in experiment.model_options.items() if name not in FROM_ELSEWHERE}
    if ":" in experiment.model:  # now rather than after the training, whose file could not be loaded
        check_stored_options(shape, "--model_options", of_code=is_code(experiment.model))
    description = {
        "name": experiment.model,
        "num_classes": len(source.classes),
        "in_channels": source.train.shape[0],
        "mean": list(source.mean),
        "std": list(source.std),
        **shape,
    }
    with torch_generators(seed=seed):
        model = _built(description | experiment.model_options)
        _check_outputs(model, source)
    if len(experiment.recipe.branches) > 1:
        model = convert(model, experiment.recipe.branches, experiment.norms, share=experiment.share)
    trained_on = weights.TrainedOn(source.name, source.train.shape, source.classes)
    return Prepared(model, description, trained_on, train_split, val_split, source.notes)


def _built(description: dict[str, Any]) -> nn.Module:
    try:
        return models.build(**description)
    except TypeError as error:
        raise ValueError(f"the model does not take these model_options: {error}") from error


def _check_outputs(model: nn.Module, source: data.Source) -> None:
    """Raise ValueError unless the model has one output per class; ``model_options`` may have changed that."""
    x = source.train.batch(torch.arange(1))[0]
    try:
        with evaluating(model), torch.no_grad():
            logits = model(x)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the model does not take {source.name}'s images of {' x '.join(map(str, x.shape[1:]))} (channels, height, "
            f"width): {reason}: change model_options, or take another model"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        what = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(
            f"the model returns {what} where logits of shape (N, classes) are expected: change model_options"
        )
    if logits.shape[1] != len(source.classes):
        raise ValueError(
            f"the model has {logits.shape[1]:,} outputs and {source.name} has {len(source.classes):,} classes: leave "
            "the number of classes out of model_options"
        )


def load_data(experiment: Experiment) -> data.Source:
    """The experiment's data set, with as many training images as asked for.

    Raises:
        easybn.data.DataError: it is not there, or has no training images.
    """
    options = {name: getattr(experiment, name) for name in DATA_OPTIONS}
    source = data.load(experiment.data, folder=experiment.data_folder, **options)
    source.check_trainable()
    return source if experiment.train_images is None else source.part(experiment.train_images)


# How long a training takes on this machine, from a few of its steps and one validation batch.

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
