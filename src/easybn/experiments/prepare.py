"""An experiment's data and model, as they are before the first step."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from .. import data, models
from ..data import Split
from ..keyed_random import torch_generators
from ..models import weights
from ..norm.convert import convert
from .experiment import Experiment
from .sample_ids import SampleIds, without


@dataclass(frozen=True)
class Prepared:
    """What a training starts from.

    Args:
        model: new, with the recipe's branches, its weights drawn by the experiment's seed.
        description: what :func:`easybn.models.build` made it of.
        data: what it will be trained on.
        train, val: the training images but those left out, and those held out of them, if any.
    """

    model: nn.Module
    description: dict[str, Any]
    data: weights.TrainedOn
    train: Split
    val: Split | None


def prepare(experiment: Experiment) -> Prepared:
    """The experiment's data and its model before the first step; nothing is written but the data set's cache.

    Raises:
        ValueError: the experiment cannot be made.
    """
    source = load_data(experiment)
    seed = experiment.training.seed
    train_split, val_split = source.train, None
    if held_out := round(experiment.validation * len(source.train)):
        train_split, val_split = source.holdout(held_out, seed)
    if experiment.leave_out is not None:
        train_split = without(train_split, source, SampleIds.read(experiment.leave_out))
    description = {
        "name": experiment.model,
        "num_classes": len(source.classes),
        "in_channels": source.train.shape[0],
        "mean": list(source.mean),
        "std": list(source.std),
        **experiment.model_options,
    }
    with torch_generators(seed=seed):
        model = _built(description)
    if len(experiment.recipe.branches) > 1:
        model = convert(model, experiment.recipe.branches, experiment.norms)
    trained_on = weights.TrainedOn(source.name, source.train.shape, source.classes)
    return Prepared(model, description, trained_on, train_split, val_split)


def _built(description: dict[str, Any]) -> nn.Module:
    try:
        return models.build(**description)
    except TypeError as error:
        raise ValueError(f"the model does not take these model_options: {error}") from error


def load_data(experiment: Experiment) -> data.Source:
    """The experiment's data set, cut to the images asked for."""
    source = data.load(experiment.data, folder=experiment.data_folder)
    return source if experiment.train_images is None else source.part(experiment.train_images)
