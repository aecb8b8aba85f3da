"""Images of two classes with a copy of each, and the one image that a pair makes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data import Source, Split
from ..perturb_image import class_number

LAYOUTS = {"above": 2, "beside": 3, "channels": 1}
"""The dimension of (N, C, H, W) along which the original comes first and its copy second."""

DEFAULT_CLASSES = (("automobile", "truck"), ("T-shirt/top", "Shirt"))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Originals and copies, both uint8 of shape (N, C, H, W), and labels, int64 (N,), 0 for the first class, else 1."""

    originals: Tensor
    copies: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def stack(originals: Tensor, copies: Tensor, layout: str) -> Tensor:
    """(N, C, 2H, W) for "above", (N, C, H, 2W) for "beside", (N, 2C, H, W) for "channels"."""
    return torch.cat((originals, copies), LAYOUTS[layout])


def two_classes(source: Source, asked: Sequence[str] | None) -> tuple[int, int]:
    """The labels of the two classes ``asked`` for, by name or number.

    Raises:
        ValueError: no such class, the same one twice, none asked for of a data set without a default, or a class
            without test images.
    """
    known = ", ".join(source.classes[:20]) + (", ..." if len(source.classes) > 20 else "")
    names = asked or next((pair for pair in DEFAULT_CLASSES if set(pair) <= set(source.classes)), None)
    if names is None:
        raise ValueError(f"--classes: name two classes of {source.name}; there are {known}")
    first, second = (class_number(name, source.classes, "--classes") for name in names)
    if first == second:
        raise ValueError(f"--classes: {source.classes[first]} is named twice, give two different ones of {known}")
    for kind, split in (("training", source.train), ("test", source.test)):
        for label in (first, second):
            if not bool((split.labels == label).any()):
                raise ValueError(f"--classes: there are no {kind} images of {source.classes[label]} in {source.name}")
    return first, second


def rows_of(split: Split, classes: tuple[int, int]) -> Tensor:
    """(N,) int64: the numbers of the images of either class, in file order."""
    return torch.isin(split.labels, torch.tensor(classes)).nonzero().squeeze(1)
