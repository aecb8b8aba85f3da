"""The goal of a perturbation: away from the true class, toward another one, or deeper into the true one.

======================  ===============  ====  ===========================================
goal                    label t          sign  meaning
======================  ===============  ====  ===========================================
``untargeted(y)``       y                \\+    away from the true class
``targeted(t)``         some t other     \\-    toward another class (``random_target``)
``easy(y)``             y                \\-    deeper into the true class: the easy example
``mixed_target(y, p)``  y or another     \\-    easy with probability p, else another class
======================  ===============  ====  ===========================================

PGD takes steps that increase ``sign * cross_entropy(logits, t)``. *Easy* is equation 1 of the Easy
Batch Normalization paper with the true label; it differs from the others in nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..keyed_random import Noise

_known: ContextVar[bool] = ContextVar("values_known", default=False)


@contextmanager
def values_known(known: bool = True) -> Iterator[None]:
    """Inside the block the values of images and labels are not checked, since a check waits for the device.

    For a loop that has made the batch itself. Types and shapes are checked all the same.
    """
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def values_are_known() -> bool:
    """Whether values need no check here, see :func:`values_known`."""
    return _known.get()


@dataclass(frozen=True)
class Goal:
    """A label whose loss is to be increased (sign +1) or decreased (sign -1).

    Args:
        labels: int64 tensor of shape (N,).
        sign: +1 or -1.
        draws: None, or (N,) numbers in [0, 1), each of which selects a target: ``labels`` where it is below
            ``true_share``, else one of the other classes.
        true_share: in [0, 1], the probability of ``labels``.
    """

    labels: Tensor
    sign: int
    draws: Tensor | None = None
    true_share: float = 0.0

    def target(self, classes: int) -> Tensor:
        """(N,) the labels that the loss is computed for, given the number of classes.

        Raises:
            ValueError: a label outside 0 .. classes - 1, or no other class to choose.
        """
        low, high = (0, 0) if values_are_known() else (int(v) for v in self.labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"labels must be in 0 .. {classes - 1} for {classes} logits, got {low} .. {high}")
        if self.draws is None:
            return self.labels
        if classes < 2:
            raise ValueError("a random target needs at least two classes")
        if self.true_share >= 1:
            return self.labels
        rest = (self.draws.double() - self.true_share) / (1 - self.true_share)  # what is left of a draw, in [0, 1)
        others = (rest * (classes - 1)).long()  # 0 .. classes - 2, since draws < 1
        return torch.where(rest < 0, self.labels, (self.labels + 1 + others) % classes)

    def objective(self, logits: Tensor, target: Tensor) -> Tensor:
        """(N,) what PGD increases, in float32, or float64 if the logits are."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return self.sign * F.cross_entropy(wide, target, reduction="none")


def untargeted(y: Tensor) -> Goal:
    """Away from the true class ``y`` (int64, shape (N,)): the usual adversarial example."""
    return Goal(y, +1)


def targeted(t: Tensor) -> Goal:
    """Toward the classes ``t`` (int64, shape (N,))."""
    return Goal(t, -1)


def easy(y: Tensor) -> Goal:
    """Deeper into the true class ``y`` (int64, shape (N,)): the perturbed easy example."""
    return Goal(y, -1)


def random_target(y: Tensor, noise: Noise | None = None) -> Goal:
    """Toward a class chosen at random for each sample, never the true class ``y`` (int64, shape (N,)).

    The number of classes is that of the logits. Without ``noise``, torch's global generator draws.
    """
    return mixed_target(y, 0.0, noise)


def mixed_target(y: Tensor, p: float, noise: Noise | None = None) -> Goal:
    """Toward the true class ``y`` (int64, shape (N,)) with probability ``p``, else toward another chosen at random.

    The number of classes K is that of the logits. At p = 1 / K every class is equally likely, whatever the true one:
    the target says nothing about the label. p = 0 is :func:`random_target` with the same draws, p = 1 :func:`easy`.

    Raises:
        ValueError: p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability in [0, 1], got {p}")
    noise = Noise.fresh(len(y), y.device) if noise is None else noise
    return Goal(y, -1, noise.uniform(), p)
