"""Published corrupted images: CIFAR-10-C, CIFAR-100-C and whatever else is laid out like them, read where it lies.

A folder of ``labels.npy`` and one ``KIND.npy`` for each of the 15 kinds: uint8 (5 n, H, W, C), the n test images in
their original order at severity 1, then at severity 2, and so on; labels likewise. Nothing is downloaded or unpickled,
and only the rows that are asked for are read.
"""

import ast
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import open_regular
from .cache import cache_folder
from .corruptions import CORRUPTIONS, SEVERITIES
from .datasets import VARIABLE
from .image_folder import CIFAR10_CLASSES
from .source import Source
from .split import DataError

FOLDERS = {"cifar10": "CIFAR-10-C", "cifar10-jpeg": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""What the folder of the published corruptions of a data set is called."""
LABELS = "labels.npy"
_MOST_HEADER = 10_000  # bytes; numpy's own limit


@dataclass(frozen=True, eq=False)
class PublishedCorruptions:
    """A folder whose files were looked at, and found to fit each other.

    Args:
        folder: where they are.
        labels: int64 (n,), of the test images in the published order.
        shape: (C, H, W) of the images.
    """

    folder: Path
    labels: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def open(cls, folder: Path | str) -> "PublishedCorruptions":
        """The files of a folder, or of the folder of a published name below it; DataError if they do not fit."""
        folder = Path(folder).expanduser()
        names = [LABELS, *(f"{kind}.npy" for kind in CORRUPTIONS)]
        below = [folder / name for name in dict.fromkeys(FOLDERS.values()) if (folder / name / LABELS).exists()]
        if not (folder / LABELS).exists() and len(below) == 1:
            folder = below[0]
        if missing := [name for name in names if not (folder / name).exists()]:
            several = f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(
                f"{folder} has no {missing[0]}{several}: --corruptions_folder is the folder of {LABELS} and "
                f"{next(iter(CORRUPTIONS))}.npy, as CIFAR-10-C is when it is unpacked"
            )
        labels = mapped(folder / LABELS)
        count = len(labels) // len(SEVERITIES) if labels.ndim == 1 else 0
        repeated = (
            labels.reshape(len(SEVERITIES), -1) if labels.ndim == 1 and count * 5 == len(labels) else labels[None]
        )
        if labels.dtype.kind not in "iu" or not count or len(repeated) != 5 or (repeated != repeated[0]).any():
            found = f"{labels.dtype} {labels.shape}"
            raise DataError(f"{folder / LABELS} must hold the labels of n images five times, as integers, got {found}")
        if int(repeated[0].min()) < 0:
            raise DataError(f"{folder / LABELS} must hold labels from 0 on, got {int(repeated[0].min())}")
        shapes = {name: mapped(folder / name) for name in names[1:]}
        first = shapes[names[1]].shape
        for name, images in shapes.items():
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape != first or len(images) != len(labels):
                wanted = (
                    f"uint8 ({len(labels)}, {', '.join(map(str, first[1:]))})" if len(first) == 4 else "uint8 images"
                )
                raise DataError(f"{folder / name} must be {wanted}, got {images.dtype} {images.shape}")
        _, height, width, channels = first
        return cls(folder, torch.from_numpy(repeated[0].astype(np.int64)), (channels, height, width))

    def images(self, kind: str, severity: int, rows: Tensor) -> Tensor:
        """float32 (B, C, H, W) in [0, 1]: the images numbered ``rows`` (int64, (B,)) in the published order.

        Raises:
            DataError: the file has gone, or another one is in its place.
        """
        images = mapped(self.folder / f"{kind}.npy")
        channels, height, width = self.shape
        if images.dtype != np.uint8 or images.shape != (5 * len(self.labels), height, width, channels):
            raise DataError(f"{self.folder / kind}.npy has changed: it is {images.dtype} {images.shape} now")
        pixels = images[rows.numpy() + len(self.labels) * (severity - 1)]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)

    def matched(self, source: Source) -> tuple[Tensor, bool]:
        """The labels in the numbers of ``source``, and whether its test images are these in this order.

        They are if all labels are the same, one after the other. Where they are not, as of CIFAR-10 in JPEG files that
        are sorted by class, the classes of CIFAR-10 are matched by name.

        Returns:
            int64 (n,), and whether test image i of ``source`` is image i here.

        Raises:
            DataError: other images, or other classes.
        """
        if source.test.shape != self.shape:
            here, there = (" x ".join(map(str, shape)) for shape in (self.shape, source.test.shape))
            raise DataError(
                f"{self.folder}: its images are {here} (channels, height, width), those of {source.name} {there}"
            )
        known = int(self.labels.max()) < len(CIFAR10_CLASSES) and {*CIFAR10_CLASSES} <= {*source.classes}
        numbers = [source.classes.index(name) for name in CIFAR10_CLASSES] if known else []
        labels = torch.tensor(numbers)[self.labels] if known else self.labels
        paired = torch.equal(labels, source.test.labels.cpu())
        if not paired and not known:
            what = f"are neither those of the test images of {source.name}, one by one, nor of the classes of CIFAR-10"
            raise DataError(
                f"{self.folder / LABELS}: its labels {what}: leave --corruptions_folder out to make corruptions"
            )
        return labels, paired


def find_published(name: str, folder: Path | str | None = None) -> PublishedCorruptions | None:
    """The published corruptions of a data set, verified; None if there are none on this machine.

    Args:
        name: of the data set.
        folder: where they are; by default the folder of their published name in ``$EASYBN_DATA`` or the cache folder.

    Raises:
        DataError: they are not in ``folder``, or do not fit each other.
    """
    if folder is not None:
        return PublishedCorruptions.open(folder)
    for root in places(name):
        if (root / LABELS).exists():
            return PublishedCorruptions.open(root)
    return None


def places(name: str) -> list[Path]:
    """Where the published corruptions of a data set are searched for."""
    roots = [*([Path(os.environ[VARIABLE]).expanduser()] if os.environ.get(VARIABLE) else []), cache_folder()]
    return [root / FOLDERS[name] for root in roots] if name in FOLDERS else []


def mapped(path: Path) -> NDArray[Any]:
    """The array of an .npy file, memory-mapped; DataError if it is none, has objects to unpickle, or is cut off."""
    try:
        with open_regular(path) as file:
            shape, dtype = _header(file)
            start, size = file.tell(), os.fstat(file.fileno()).st_size
            if size < start + math.prod(shape) * dtype.itemsize:
                raise ValueError(f"its array {shape} is cut off")
            return np.memmap(file, dtype, "r", start, shape)
    except (OSError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}: copy it again") from error


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an .npy file (NEP 1), whose array comes next.

    numpy's own reader of headers lets pass, and takes, more than an array of plain numbers.
    """
    start = file.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError("it is no array in numpy's format .npy")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if length > _MOST_HEADER:
        raise ValueError(f"its header has {length:,} bytes")
    header = ast.literal_eval(file.read(length).decode("latin-1").strip())
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header describes no array")
    shape, descr = header["shape"], header["descr"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError("its array is empty, or has no shape")
    if not isinstance(descr, str) or header["fortran_order"] is not False:
        raise ValueError("its array is of records, or in Fortran's order")
    dtype = np.dtype(descr)
    if dtype.kind not in "biuf":
        raise ValueError("its array is not of numbers")
    return shape, dtype
