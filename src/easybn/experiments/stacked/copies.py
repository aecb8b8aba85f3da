"""The copy of each image: easier or harder for the first network, or untouched."""

import torch
from torch import Tensor, nn

from ...data import Split
from ...modes import evaluating
from ...perturb.goal import easy, untargeted
from .pairs import Pairs, rows_of
from .settings import Condition

BATCH = 256


def paired(net: nn.Module, split: Split, classes: tuple[int, int], condition: Condition) -> Pairs:
    """The images of two classes in ``split``, and their copies.

    Args:
        net: the first network, which knows all classes; plain, perturbed through in eval mode.
        classes: their two labels in ``split``.
    """
    rows = rows_of(split, classes)
    copies = [copied(net, *split.batch(some), condition) for some in torch.split(rows, BATCH)]
    return Pairs(split.pixels(rows), torch.cat(copies), (split.labels[rows] == classes[1]).long())


def copied(net: nn.Module, x: Tensor, y: Tensor, condition: Condition) -> Tensor:
    """8-bit copies (N, C, H, W) of images in whole 255ths: with the true label for "easy", away from it else.

    Rounded to the nearest of 256 levels, as a PNG would store them. An eps in whole 255ths makes the end of the
    ball such a level, so that no copy leaves the ball; a single step ends on levels and loses nothing.
    """
    if condition.attack is not None:
        where = next(net.parameters()).device
        goal = easy(y.to(where)) if condition.copy == "easy" else untargeted(y.to(where))
        with evaluating(net):
            x = condition.attack(net, x.to(where), goal).cpu()
    return (255 * x).round().byte()


def recognised(net: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many of the images (uint8) ``net`` gives their label (N,), in eval mode."""
    where = next(net.parameters()).device
    right = 0
    with torch.inference_mode(), evaluating(net):
        for x, y in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            right += int((net(x.to(where).float() / 255).argmax(1).cpu() == y).sum())
    return right
