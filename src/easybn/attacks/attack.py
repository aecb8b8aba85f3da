"""What the evaluation attacks have in common: begin, look, move, each row by itself.

A store of verdicts goes on with what is in it only under the same ``easybn.evaluation.storing.VERSION``. No test can
see that it is due; it is to be raised with every change after which, for the same model, points, settings and seed,

- any try may end otherwise: another image, iteration, margin or number of passes. That is another formula, constant,
  default that is no field of the attack, order of floating-point operations, or stream of random numbers; another
  order or make-up of batches (``drive``, ``queue``); another rule of what counts as fallen (``judge``, ``verdict``);
- or a saved state no longer fits: a column of ``Tracks`` or an entry of ``Drive``'s state is new, gone or renamed,
  or means something else.

Not with a new attack or field (it is in the manifest by its name), nor with the preparation of the model, which the
manifest has as text: there the text is to change.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
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
    differentiates = True
    """Whether it takes gradients of the model."""

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


def look_ahead(model: Prepared, tracks: Tracks, moves: int, climb: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, K) logits of ``tracks["point"]``, by ``climb`` for the rows that will move once more.

    Args:
        moves: of a try; rows of that age are looked at for the last time, and need no gradient.
        climb: logits of the rows of a mask (bool, (B,)); it leaves their gradients in columns.
    """
    going = tracks["age"] < moves
    if going.all():
        return climb(going)
    tracks.spent(~going, forwards=1)
    with torch.no_grad():
        last = model(tracks["point"][~going])
    if not going.any():
        return last
    logits = last.new_empty(tracks.count, last.shape[1])
    logits[~going], logits[going] = last, climb(going).to(last.dtype)
    return logits


def targets(classes: int, most: int = 9) -> int:
    """How many target classes: ``most``, or all others if there are fewer."""
    return min(most, classes - 1)


def counted(tracks: Tracks, rows: Tensor, gradient: Tensor) -> Tensor:
    """(n, ...) gradients of the n rows of a mask, zero where any of it is NaN or infinite; either kind is counted."""
    largest = gradient.flatten(1).abs().amax(1)  # NaN where there is one
    finite = largest.isfinite()
    for name, kind in (("non_finite", ~finite), ("zero_gradients", largest == 0)):
        if kind.any():
            tracks[name] = tracks[name].index_add(0, rows.nonzero()[:, 0], kind.long())
    return gradient if finite.all() else gradient.where(per_sample(finite, gradient), torch.zeros_like(gradient))
