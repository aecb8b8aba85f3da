"""Learning rate schedules: the rate as a function of the epoch, a real number that grows with every step."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """The learning rate at a moment of training."""

    @abstractmethod
    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        """The rate at ``epoch`` (0 <= epoch < epochs, with the fraction done of it), given the ``peak`` rate."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """From the peak to 0 along half a cosine, a step at a time (Loshchilov & Hutter 2017, no restarts).

    Args:
        warmup: epochs of linear rise from 0 at the start.
    """

    warmup: float = 0.0

    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        if epoch < self.warmup:
            return peak * epoch / self.warmup
        done = (epoch - self.warmup) / max(epochs - self.warmup, 1e-9)
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Constant between milestones: by default the EBN paper's, as written.

    "0.1, 0.0005, and 0.0005 values after the 1, 200, and 450 epochs": the first epoch rises linearly to
    the first rate.

    Args:
        epochs: after how many epochs each rate holds, increasing.
        rates: the rates, absolute; the peak rate is not used.
    """

    epochs: tuple[float, ...] = (1, 200, 450)
    rates: tuple[float, ...] = (0.1, 0.0005, 0.0005)

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.rates) or not self.epochs or list(self.epochs) != sorted(self.epochs):
            raise ValueError(f"as many increasing epochs as rates are needed, got {self.epochs} and {self.rates}")

    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        if epoch < self.epochs[0]:
            return self.rates[0] * epoch / self.epochs[0]
        return next(rate for after, rate in reversed(list(zip(self.epochs, self.rates, strict=True))) if epoch >= after)


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak rate throughout."""

    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        return peak
