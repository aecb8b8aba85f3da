"""The official CIFAR archives, read in memory: nothing is extracted.

The binary version stores records of one label byte (two for CIFAR-100: coarse, fine) and 3,072 pixel
bytes, channel after channel, row after row. The python version stores the same pixels in pickles.
"""

import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..reading import check_regular
from .byte_pickle import load_byte_pickle
from .errors import DataError

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (N, 3, 32, 32) and labels (N,)

_PIXELS = 3 * 32 * 32
_LARGEST = 2**29  # bytes of one member; the largest true one has 154 million


def read_members(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """The content of the members called ``names``, whatever else there is; paths serve as names only.

    Raises:
        DataError: a member is missing, not a plain file or far too large, or the archive is damaged.
    """
    found: dict[str, bytes] = {}
    try:
        check_regular(archive)
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name in names and member.isfile():
                    if member.size > _LARGEST:
                        raise DataError(f"{archive}: {member.name} has {member.size} bytes: not the original archive")
                    file = tar.extractfile(member)
                    found[member.name] = file.read() if file is not None else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive}: is no readable tar.gz archive ({error}): fetch it again") from None
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{archive}: has no {', '.join(missing)}: not the original archive")
    return found


def from_binary(data: bytes, label_bytes: int, name: str) -> Arrays:
    """The records of one file of the binary version; the last label byte counts."""
    size = label_bytes + _PIXELS
    if len(data) % size:
        raise DataError(f"{name}: {len(data)} bytes are no whole number of records of {size}")
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return images, records[:, label_bytes - 1].astype(np.int64)


def from_pickle(data: bytes, label_key: bytes, name: str) -> Arrays:
    """The images and labels of one file of the python version."""
    content = load_byte_pickle(data, name)
    try:
        pixels, labels = np.asarray(content[b"data"]), np.asarray(content[label_key], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name}: is no CIFAR batch ({error!r})") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or labels.shape != pixels.shape[:1]:
        raise DataError(f"{name}: holds {pixels.dtype} {pixels.shape} and labels {labels.shape}: no CIFAR batch")
    return pixels.reshape(-1, 3, 32, 32), labels


def names_from_pickle(data: bytes, key: bytes, name: str) -> tuple[str, ...]:
    """The class names in the meta file of the python version."""
    try:
        return tuple(word.decode("ascii") for word in load_byte_pickle(data, name)[key])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: holds no class names ({error!r})") from None
