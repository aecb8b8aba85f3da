"""The data and the model of an experiment before the first training step."""

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
        model = convert(model, experiment.recipe.branches, experiment.norms)
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
