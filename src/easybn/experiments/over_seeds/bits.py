"""Which of n points a model gets right, as text that fits into a row: eight points a byte, in base64."""

import base64
import binascii
import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def packed(right: ArrayLike) -> str:
    """bool (n,) as text of about n / 6 characters."""
    return base64.b64encode(np.packbits(np.asarray(right, bool)).tobytes()).decode()


def unpacked(text: str, n: int) -> NDArray[np.bool_]:
    """bool (n,) that :func:`packed` gave.

    Raises:
        ValueError: text of another number of points.
    """
    try:
        data = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except binascii.Error as error:
        raise ValueError(f"no packed points: {error}") from error
    if len(data) != -(-n // 8):
        raise ValueError(f"packed points: {len(data)} bytes for {n} points")
    return np.unpackbits(data, count=n).astype(bool)


def points_digest(ids: Iterable[int]) -> str:
    """Eight hexadecimal digits of the points' numbers, in ascending order: verdicts are paired within one digest."""
    ordered = np.sort(np.fromiter(ids, np.int64))
    return hashlib.blake2b(ordered.astype("<i8").tobytes(), digest_size=4).hexdigest()
