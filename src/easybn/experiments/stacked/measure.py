"""How often a network is right on stacked test images, intact and with a half randomised."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...modes import evaluating
from .copies import BATCH
from .pairs import stack
from .randomise import HALVES, WAYS, Randomiser


def measured(net: nn.Module, randomiser: Randomiser, layout: str) -> Iterator[dict[str, Any]]:
    """A row for the intact images (half and how None) and one for each half and way to randomise it.

    Yields:
        half, how, n, correct, accuracy.
    """
    ways: list[tuple[str | None, str | None]] = [(None, None), *((half, how) for half in HALVES for how in WAYS)]
    for half, how in ways:
        n, right = len(randomiser.pairs), correct(net, randomiser, layout, half, how)
        yield {"half": half, "how": how, "n": n, "correct": right, "accuracy": right / n}


def correct(net: nn.Module, randomiser: Randomiser, layout: str, half: str | None, how: str | None) -> int:
    """Number of test pairs that ``net``, in eval mode, gives their class."""
    where = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    labels, right = randomiser.pairs.labels, 0
    with torch.inference_mode(), evaluating(net):
        for index in torch.split(torch.arange(len(labels)), BATCH):
            x = stack(*randomiser(index, half, how), layout).to(where).float() / 255
            right += int((net(x).argmax(1).cpu() == labels[index]).sum())
    return right
