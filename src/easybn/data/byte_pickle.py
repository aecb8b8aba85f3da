"""Pickles of plain values and byte arrays, read without running anything that they name.

A pickle may name any function to be called. The reader here knows the three names by which numpy stores
an array, gives a stand-in for each, and refuses every other name. Numpy itself is kept out of it: the
state of one of its types, taken from a stranger, could make it read where it should not.
"""

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np

from .errors import DataError


class _ByteType:
    """Stands in for numpy's dtype: unsigned bytes, whatever its state says."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, expected unsigned bytes")

    def __setstate__(self, state: object) -> None:
        pass


class _ByteArray:
    """Stands in for numpy's ndarray until its content is known."""

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        if not isinstance(kind, _ByteType) or not isinstance(content, bytes) or math.prod(shape) != len(content):
            raise pickle.UnpicklingError("it holds an array whose size is not that of its content")
        flat = np.frombuffer(content, np.uint8)
        self.values = flat.reshape(shape, order="F" if by_column else "C")


_KNOWN: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _ByteArray,  # numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _ByteArray,  # numpy 2
    ("numpy", "ndarray"): _ByteArray,
    ("numpy", "dtype"): _ByteType,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed") from None


def _check_sizes(data: bytes) -> None:
    """Raise UnpicklingError for what asks for more memory than the pickle has bytes.

    A bytearray is made before its content is read, and the table of memos is as long as its largest index.
    """
    for code, argument, _ in pickletools.genops(data):
        if code.name in ("BYTEARRAY8", "NEXT_BUFFER"):
            raise pickle.UnpicklingError(f"it holds {code.name}, which is none of the plain values")
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(data):
            raise pickle.UnpicklingError(f"its memo {argument} is beyond its size")


def load_byte_pickle(data: bytes, name: str) -> dict[bytes, Any]:
    """A pickled dictionary of plain values and uint8 arrays; the strings of Python 2 come as bytes.

    Args:
        data: the pickle.
        name: what an error calls it.

    Raises:
        DataError: it is damaged, no dictionary, or asks for any other class or function.
    """
    try:
        _check_sizes(data)
        content = _Reader(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise DataError(f"{name}: cannot be read as a pickle of plain values: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{name}: holds a {type(content).__name__}, expected a dictionary")
    return {key: value.values if isinstance(value, _ByteArray) else value for key, value in content.items()}
