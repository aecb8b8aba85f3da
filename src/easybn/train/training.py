"""How long and how fast to train: the fields of a training that are not the method's."""

import math
from dataclasses import dataclass
from typing import Literal

from ..keyed_random import check_seed
from .schedule import Cosine, Schedule


@dataclass(frozen=True)
class Training:
    """Stochastic gradient descent with momentum, and what surrounds it.

    Args:
        epochs: passes over the training images.
        batch_size: images a step; the incomplete last batch of an epoch is left out.
        lr: peak learning rate.
        schedule: Cosine, Piecewise or Constant.
        momentum: of SGD.
        nesterov: look-ahead momentum.
        weight_decay: of all parameters.
        clip_norm: largest norm of the whole gradient; none by default.
        ema: decay of an exponential moving average of the weights, such as 0.999; the average is what is
            kept then. None by default.
        augment: "none", or "crop_flip" (4 pixels of padding, random crop, horizontal flip).
        precision: "32", or the autocast "bf16" or "fp16" (with loss scaling).
        channels_last: memory layout of the model and the images; faster on CPUs and recent GPUs.
        compile: compile the model first (torch.compile); worth it for long trainings.
        seed: of the weights, the order, the augmentation and all noise.
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
