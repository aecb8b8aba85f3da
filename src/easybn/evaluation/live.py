"""The points an attack still works on: a batch that fills up again as points leave it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..attacks.prepare import Prepared
from ..attacks.verdict import fooled
from ..keyed_random import Noise
from ..perturb.pgd import PGD


class Live(NamedTuple):
    """Points under attack, each with its own count of steps.

    Args:
        row: int64 (B,), position in the run's list of ids.
        label: int64 (B,), true class.
        age: int64 (B,), steps done.
        centre: (B, ...), original image.
        point: (B, ...), iterate.
        thin: bool (B,), has been misclassified by a margin within rounding; the attack goes on with it.
    """

    row: Tensor
    label: Tensor
    age: Tensor
    centre: Tensor
    point: Tensor
    thin: Tensor

    def those(self, mask: Tensor) -> "Live":
        """The points where ``mask`` (bool, (B,)) is true."""
        return Live(*(field[mask] for field in self))

    def joined_by(self, others: "Live") -> "Live":
        """These points and then the others."""
        return Live(*(torch.cat(pair) for pair in zip(self, others, strict=True)))

    def verify(self, model: Prepared, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Which points have fallen for good, and which by a margin within rounding: two bool tensors (B,), disjoint.

        Both are misclassified twice: by ``logits``, and in a forward pass of the suspects alone.
        """
        suspect, _ = fooled(logits, self.label)
        sure, thin = torch.zeros_like(suspect), torch.zeros_like(suspect)
        if suspect.any():
            with torch.no_grad():
                wrong, clearly = fooled(model(self.point[suspect]), self.label[suspect])
            sure[suspect], thin[suspect] = clearly, wrong & ~clearly
        return sure, thin


@dataclass(frozen=True)
class Queue:
    """The points that a run will attack, and how each one starts.

    Args:
        model: from ``prepared``.
        attack: its ball and its ``random_start`` decide the start.
        x: images in [0, 1], (N, ...); y: their classes, int64, (N,), on the device of ``x``.
        ids: int64 (n,) on the CPU, which of them to attack.
        seed: with ``purpose`` and the id, the name of the random start.
        purpose: see ``seed``.
    """

    model: Prepared
    attack: PGD
    x: Tensor
    y: Tensor
    ids: Tensor
    seed: int
    purpose: str

    def take(self, start: int, stop: int) -> Live:
        """The points start .. stop - 1 of the list (fewer at its end), at their start."""
        rows = torch.arange(start, min(stop, len(self.ids)))
        ids = self.ids[rows].to(self.x.device)
        centre = self.model.load(self.x[ids])
        point, device = centre.clone(), centre.device
        if self.attack.random_start:
            point = self.attack.ball.random(centre, Noise.of(self.seed, self.purpose, ids.to(device)))
        zeros = torch.zeros(len(rows), dtype=torch.int64, device=device)
        return Live(rows.to(device), self.y[ids].to(device), zeros, centre, point, zeros.bool())
