"""How long and how fast to train: the settings that are not the recipe's, and the learning rate schedules."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from ..keyed_random import check_seed


class Schedule(ABC):
    """The learning rate as a function of the epoch, with its fraction done so far."""

    @abstractmethod
    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        """The rate at ``epoch`` (a real number, 0 <= epoch < epochs), given the ``peak`` rate."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """From the peak to 0 along half a cosine, updated every step (Loshchilov & Hutter 2017, no restarts).

    Args:
        warmup: epochs of linear increase from 0 at the start.
    """

    warmup: float = 0.0

    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        if epoch < self.warmup:
            return peak * epoch / self.warmup
        done = (epoch - self.warmup) / max(epochs - self.warmup, 1e-9)
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Constant between milestones, with a linear warm-up to the first; by default the EBN paper's schedule.

    The paper: "0.1, 0.0005, and 0.0005 values after the 1, 200, and 450 epochs".

    Args:
        epochs: the milestones, increasing: each rate applies from its milestone on.
        rates: the rates, absolute; the peak rate is not used.
    """

    epochs: tuple[float, ...] = (1, 200, 450)
    rates: tuple[float, ...] = (0.1, 0.0005, 0.0005)

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.rates) or not self.epochs or list(self.epochs) != sorted(self.epochs):
            raise ValueError(f"epochs must increase, one for each rate, got {self.epochs} and {self.rates}")

    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        if epoch < self.epochs[0]:
            return self.rates[0] * epoch / self.epochs[0]
        return next(rate for after, rate in reversed(list(zip(self.epochs, self.rates, strict=True))) if epoch >= after)


@dataclass(frozen=True)
class Constant(Schedule):
    """The peak rate throughout."""

    def rate(self, peak: float, epoch: float, epochs: int) -> float:
        return peak


@dataclass(frozen=True)
class Training:
    """Settings of a training that are not the recipe's: SGD with momentum, schedule, precision, seed.

    Args:
        epochs: passes over the training images.
        batch_size: images per step, shared by all processes; the incomplete last batch of an epoch is left out.
        lr: peak learning rate.
        schedule: Cosine, Piecewise or Constant.
        momentum: of SGD.
        nesterov: Nesterov momentum.
        weight_decay: of all parameters.
        clip_norm: clip the gradient to this norm; off by default.
        ema: decay of an exponential moving average of the weights, such as 0.999; the average is then the deployed
            model. Off by default.
        augment: "none", or "crop_flip" (4 pixels of padding, random crop, horizontal flip).
        precision: "32", or the autocast "bf16" or "fp16" (with loss scaling).
        channels_last: memory layout of the model and the images; faster on CPUs and recent GPUs.
        compile: compile the model with torch.compile; worth it for long trainings.
        sync_batchnorm: with several processes on GPUs, normalise by the batches of all of them (SyncBatchNorm). By
            default each normalises by its own share, and running statistics are averaged.
        seed: of the initial weights, the order, the augmentation and all noise.
    """

    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.1
    schedule: Schedule = Cosine()
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    ema: float | None = None
    augment: Literal["none", "crop_flip"] = "none"
    precision: Literal["32", "bf16", "fp16"] = "32"
    channels_last: bool = True
    compile: bool = False
    sync_batchnorm: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, low in (("epochs", 1), ("batch_size", 1), ("lr", 0), ("momentum", 0), ("weight_decay", 0)):
            value = getattr(self, name)
            if not low <= value < math.inf:
                needed = "finite" if value == math.inf else f"at least {low}"
                raise ValueError(f"{name} must be {needed}, got {value}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, got {self.clip_norm}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be between 0 and 1, got {self.ema}")
