"""The fresh network of one condition: trained on stacked pairs, measured with either half randomised."""

import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from ... import data, models
from ...data.statistics import channel_statistics
from ...keyed_random import Noise, torch_generators
from ...recipes.vanilla import Vanilla
from ...train.loop import fit
from ...train.progress import ProgressBar
from ...train.training import Training
from .copies import paired, recognised
from .measure import measured
from .pairs import rows_of, stack
from .pictures import save_picture
from .randomise import Randomiser
from .settings import Condition, Settings


def condition_rows(
    settings: Settings,
    source: data.Source,
    classes: tuple[int, int],
    net: nn.Module,
    condition: Condition,
    seed: int,
    folder: Path,
    display: Progress,
) -> list[dict[str, Any]]:
    """Train a fresh network on pairs of ``condition`` and measure it on those of the test split.

    Returns:
        Seven rows: data, classes, model, layout, seed, epochs_first, epochs, batch_size, train_n (pairs it was
        trained on); copy, eps, steps, as in :class:`Condition`; picture (file in the folder); half and how, what was
        randomised (None: nothing); n, correct, accuracy; first_net, how many of the n originals and copies the first
        network gives their class, of all classes; seconds, of copies, training and all seven measurements.
    """
    began = time.monotonic()
    training, test = (paired(net, split, classes, condition) for split in (source.train, source.test))
    images = stack(training.originals, training.copies, settings.layout)
    second = fit(
        fresh(settings, source, seed, channel_statistics(images)),
        Vanilla(),
        (images, training.labels),
        Training(epochs=settings.epochs, batch_size=settings.batch_size, seed=seed),
        observers=[ProgressBar(f"seed {seed}: {condition}", display)],
        device=next(net.parameters()).device,
    ).model
    grey = torch.tensor(channel_statistics(training.originals)[0]).mul(255).round().byte()
    measurements = list(measured(second, Randomiser(test, grey, seed), settings.layout))
    labels = source.test.labels[rows_of(source.test, classes)]
    names = [source.classes[label] for label in classes]
    picture = f"pictures/{condition.file_name}.png"
    if seed == 0:  # before the rows: where they are, it is
        save_picture(folder / picture, test, names, str(condition))
    row = {
        "data": source.name,
        "classes": names,
        "model": settings.model,
        "layout": settings.layout,
        "seed": seed,
        "epochs_first": settings.epochs_first,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "train_n": len(training),
        "copy": condition.copy,
        "eps": condition.eps,
        "steps": condition.steps,
        "picture": picture,
    }
    first = {"original": recognised(net, test.originals, labels), "copy": recognised(net, test.copies, labels)}
    after = {"first_net": first, "seconds": round(time.monotonic() - began, 1)}
    return [{**row, **measurement, **after} for measurement in measurements]


def fresh(settings: Settings, source: data.Source, seed: int, statistics: tuple[Any, Any] = (None, None)) -> nn.Module:
    """A new network of two classes, its weights drawn by ``seed``, but not the first network's initial ones.

    Those would share most of their numbers, and gradient perturbations transfer better between networks that began
    alike: it would not be a fresh network. All conditions of a seed begin with the same weights.
    """
    channels = source.train.shape[0] * (2 if settings.layout == "channels" else 1)
    number = int(Noise.of(seed, "stacked weights", torch.zeros(1, dtype=torch.int64)).bits(1))
    with torch_generators(seed=number):
        return models.build(settings.model, 2, channels, *statistics)
