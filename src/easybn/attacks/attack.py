"""What the evaluation attacks have in common: begin, look, move, each row by itself."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..perturb.ball import Ball, per_sample
from .prepare import Prepared
from .tracks import Tracks


class Try(NamedTuple):
    """One try at a point.

    Args:
        target: 0 for none; 1 for the class that the clean image is most easily taken for, and so on.
        restart: number of the restart, from 0.
    """

    target: int = 0
    restart: int = 0


class Attack(ABC):
    """An iterative attack whose every row is a function of its own point, target and random stream alone.

    So a row that leaves or joins changes no other (but for the rounding of kernels), rows of all ages share a
    batch, and a run that was stopped goes on from its columns. An attack holds no state and touches neither
    the modes nor the weights of the model.

    Args of every attack:
        ball: where it looks, ``Linf(eps)`` or ``L2(eps)``.
    """

    ball: Ball
    bounded = True
    """Whether every point it looks at lies in its ball; if not, what it finds outside serves larger radii."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As in tables and options: "apgd-ce"."""

    @property
    @abstractmethod
    def moves(self) -> int:
        """Moves of a try; it looks at one image more."""

    def tries(self, classes: int) -> list[Try]:
        """The tries at a point, in order, given the number of classes; a point leaves at its first success."""
        return [Try()]

    @abstractmethod
    def begin(self, tracks: Tracks) -> None:
        """Put the first image to look at in ``tracks["point"]``, and add the columns that the attack needs."""

    @abstractmethod
    def look(self, model: Prepared, tracks: Tracks) -> Tensor:
        """(B, K) logits, without a graph, of ``tracks["point"]``; gradients are left in columns."""

    @abstractmethod
    def move(self, model: Prepared, tracks: Tracks) -> None:
        """The next image to look at, for the rows that are still there."""


def targets(classes: int, most: int = 9) -> int:
    """How many target classes: ``most``, or all others if there are fewer."""
    return min(most, classes - 1)


def finite_gradient(gradient: Tensor) -> Tensor:
    """(B, ...) the gradient, zero for a row where any of it is NaN or infinite."""
    finite = gradient.flatten(1).isfinite().all(1)
    return gradient.where(per_sample(finite, gradient), torch.zeros_like(gradient))
