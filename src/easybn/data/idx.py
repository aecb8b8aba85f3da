"""The idx format of MNIST and its kin (LeCun, Cortes & Burges), read strictly.

A file is two zero bytes, a type (8: unsigned byte, the only one read here), the number of dimensions,
each dimension as a big-endian 32-bit number, and the values, last dimension fastest.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..files import open_regular
from .errors import DataError

_UNSIGNED_BYTE = 8
_GZIP = b"\x1f\x8b"
_LARGEST = 2**27  # bytes, more than twice Fashion-MNIST's: a file of a megabyte may unpack to a thousand times that


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array in ``path``, plain or compressed by gzip (told apart by content, not by name).

    Args:
        path: the file.
        dimensions: how many the array must have: 3 for images, 1 for labels.

    Raises:
        DataError: no such file, or not exactly one array of this kind.
    """
    try:
        with open_regular(path) as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                return _read(file, path, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip stream is damaged or cut short ({error}): fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read(file: IO[bytes] | gzip.GzipFile, path: Path, dimensions: int) -> NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(f"{path}: not an idx file: it starts with {magic.hex() or 'nothing'}")
    if magic[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: holds idx values of type {magic[2]}, expected {_UNSIGNED_BYTE} (unsigned bytes)")
    if magic[3] != dimensions:
        raise DataError(f"{path}: has {magic[3]} dimensions, expected {dimensions}: is it images where labels belong?")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path}: ends within its header: fetch it again")
    shape = struct.unpack(f">{dimensions}I", header)
    size = math.prod(shape)
    if size > _LARGEST:
        raise DataError(f"{path}: its header announces {shape}, more than {_LARGEST} bytes: fetch it again")
    values = file.read(size + 1)  # one more than there should be, to see that there is none
    if len(values) != size:
        found = "more" if len(values) > size else str(len(values))
        raise DataError(f"{path}: its header announces {shape}, {size} bytes, but {found} follow: fetch it again")
    return np.frombuffer(bytearray(values), dtype=np.uint8).reshape(shape)  # a bytearray, for a writable array


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write ``array`` (uint8) to ``path``, compressed by gzip and reproducibly: no time, no name."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, _UNSIGNED_BYTE, array.ndim, *array.shape)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(header + np.ascontiguousarray(array, dtype=np.uint8).tobytes())
    path.write_bytes(buffer.getvalue())
