"""One half of the pairs made meaningless, or made to mean the other class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...keyed_random import Noise
from .pairs import Pairs

HALVES = ("copy", "original")
WAYS = ("noise", "swap", "blank")


@dataclass(frozen=True, eq=False)
class Randomiser:
    """Replaces a half of test pairs.

    ====== ==========================================================================================
    noise  every value drawn from the 256 levels alike; a network that sees nothing else is right by
           chance, 50% of the time where the classes are of one size
    swap   the same half of a random image of the other class; a network that sees nothing else is
           always wrong, 0%
    blank  the mean of the training images, one level a channel: what the network's normalisation
           takes to zero, on any data set (black is what Fashion-MNIST's background looks like)
    ====== ==========================================================================================

    Args:
        pairs: both classes among them.
        grey: (C,) uint8, the level of each channel for "blank".
        seed: of the noise and of who swaps with whom.
    """

    pairs: Pairs
    grey: Tensor
    seed: int

    def __call__(self, index: Tensor, half: str | None, how: str | None) -> tuple[Tensor, Tensor]:
        """(originals, copies) of the samples numbered ``index`` (B,), uint8 (B, C, H, W), with ``half`` replaced.

        Args:
            half: "original", "copy", or None to leave both.
            how: "noise", "swap" or "blank".
        """
        halves = {"original": self.pairs.originals, "copy": self.pairs.copies}
        found = {name: images[index] for name, images in halves.items()}
        if half is not None:
            shape = found[half].shape[1:]
            if how == "noise":
                found[half] = Noise.of(self.seed, "stacked noise", index).integers(256, *shape).byte()
            elif how == "swap":
                found[half] = halves[half][partners(self.pairs.labels, self.seed)[index]]
            else:
                found[half] = self.grey.view(-1, 1, 1).expand(len(index), *shape)
        return found["original"], found["copy"]


def partners(labels: Tensor, seed: int) -> Tensor:
    """(N,) for each sample the number of one of the other class, drawn by (seed, sample); labels are 0 and 1."""
    noise = Noise.of(seed, "stacked swap", torch.arange(len(labels)))
    out = torch.empty_like(labels)
    for label in (0, 1):
        others = (labels != label).nonzero().squeeze(1)
        mine = labels == label
        out[mine] = others[noise.integers(len(others))[mine]]
    return out
