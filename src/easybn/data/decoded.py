"""Images yet to be decoded, and the loop that decodes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import DataError
from .progress import Progress
from .source import Source, Split
from .statistics import from_histogram, histogram


@dataclass(frozen=True)
class Part:
    """A split yet to be decoded.

    Args:
        labels: int64 array of shape (N,).
        chunks: gives the images in order, as uint8 arrays of shape (n, C, H, W), N images in all.
    """

    labels: NDArray[np.int64]
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]

    @classmethod
    def of_array(cls, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> "Part":
        """A split that is in memory already: images (N, C, H, W), labels (N,)."""
        return cls(labels, lambda: (images[start : start + 4096] for start in range(0, len(images), 4096)))


@dataclass(frozen=True)
class Undecoded:
    """A data set yet to be decoded: its images have the shape (C, H, W).

    ``notes`` gives those of the :class:`Source`; it is called once everything is decoded.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Part
    test: Part
    notes: Callable[[], tuple[str, ...]] = tuple

    def parts(self) -> Iterator[tuple[str, Part]]:
        yield "train", self.train
        yield "test", self.test


def decode(
    part: Part, shape: tuple[int, int, int], write: Callable[[Any], object], what: str, show: Progress
) -> Tensor:
    """Hand every chunk to ``write``, in order, while ``show`` is told how far ``what`` has come.

    Returns:
        (C, 256) int64, the histogram of each channel.

    Raises:
        DataError: fewer or more images than labels, or an image of another shape.
    """
    count, done = torch.zeros(shape[0], 256, dtype=torch.int64), 0
    for chunk in part.chunks():
        chunk = np.ascontiguousarray(chunk)
        if chunk.shape[1:] != shape:
            raise DataError(f"{what}: an image has shape {chunk.shape[1:]} where {shape} was expected")
        write(chunk)
        count += histogram(torch.from_numpy(chunk))
        done += len(chunk)
        show(what, done, len(part.labels))
    if done != len(part.labels):
        raise DataError(f"{what}: every image needs one label, got {done} images and {len(part.labels)} labels")
    return count


def in_memory(data: Undecoded, show: Progress) -> Source:
    """Decode everything into memory."""
    splits, counts = {}, {}
    for kind, part in data.parts():
        chunks = [np.empty((0, *data.shape), np.uint8)]
        counts[kind] = decode(part, data.shape, chunks.append, f"{data.name}: {kind}", show)
        splits[kind] = Split(torch.from_numpy(np.concatenate(chunks)), torch.from_numpy(part.labels))
    mean, std = from_histogram(counts["train"]) if len(splits["train"]) else ((), ())
    return Source(data.name, data.classes, splits["train"], splits["test"], mean, std, data.notes())
