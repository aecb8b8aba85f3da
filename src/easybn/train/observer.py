"""Who watches a training: progress bars, metrics files, a census, early stops; none of them in the loop."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..recipes.recipe import Recipe
from .step import Tally
from .training import Training


@dataclass
class Moment:
    """Where a training stands; the one object that all observers are shown, updated as it goes.

    Args:
        model: the model being trained, with its branches.
        recipe, training: the method and its surroundings.
        steps_per_epoch, total_steps: of the whole training.
        batch_size: images a step.
        step: optimiser steps taken.
        lr: learning rate of the step just taken.
        tally: sums over the epoch under way, a tensor a term (see :mod:`easybn.train.step`).
        seconds: spent training, earlier sittings included.
        first_step: where this sitting began.
        stop: an observer sets it to end the training after this step.
        notes: what is unusual about the model, a sentence each.
    """

    model: nn.Module
    recipe: Recipe
    training: Training
    steps_per_epoch: int
    total_steps: int
    batch_size: int
    step: int = 0
    lr: float = 0.0
    tally: Tally = field(default_factory=dict)
    seconds: float = 0.0
    first_step: int = 0
    stop: bool = False
    notes: tuple[str, ...] = ()

    @property
    def epoch(self) -> float:
        """Epochs done, a real number."""
        return self.step / self.steps_per_epoch


class Observer:
    """Override what you need; each call is in the training's own thread and should be short."""

    def start(self, moment: Moment) -> None:
        """Before the first step of a sitting."""

    def step(self, moment: Moment) -> None:
        """After every optimiser step."""

    def epoch(self, moment: Moment, row: dict[str, Any]) -> None:
        """After every epoch, with its row: epoch, step, lr, and train and val scores of each term or branch."""

    def end(self, moment: Moment) -> None:
        """At the end of a sitting, also after an error or an interruption."""


def averages(tally: Tally) -> dict[str, dict[str, float]]:
    """{term: {"loss": mean, "accuracy": share}}; waits for the device."""
    rows = dict(zip(tally, torch.stack(list(tally.values())).tolist(), strict=True)) if tally else {}
    return {name: {"loss": loss / n, "accuracy": right / n} for name, (loss, right, n) in rows.items()}
