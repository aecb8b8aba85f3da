"""The state of a stage that is under way, as bytes: what a process that takes over goes on from."""

import hashlib
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...sealed import Damaged

State = dict[str, Any]
"""Tensors and plain values, also nested in dicts, lists and tuples."""
_SIZE = 32


def to_bytes(state: State, name: str, points: NDArray[np.int64]) -> bytes:
    """``state`` with whose it is and a checksum in front.

    Args:
        state: what to keep.
        name: of the job and stage.
        points: int64 (n,), the ids of the points under attack: the rows of the state follow from them.
    """
    buffer = io.BytesIO()
    torch.save({"name": name, "points": torch.tensor(points), "state": state}, buffer)
    data = buffer.getvalue()
    return hashlib.blake2b(data, digest_size=_SIZE).digest() + data


def from_bytes(data: bytes, name: str, points: NDArray[np.int64]) -> State:
    """The state that was given to :func:`to_bytes` under the same name and for the same points.

    Nothing but tensors (on the CPU) and plain values is unpickled.

    Raises:
        Damaged: the bytes are not whole, or are of another stage.
    """
    if hashlib.blake2b(data[_SIZE:], digest_size=_SIZE).digest() != data[:_SIZE]:
        raise Damaged("its checksum is another one")
    try:
        content = torch.load(io.BytesIO(data[_SIZE:]), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Damaged(f"it holds more than tensors and plain values ({type(error).__name__})") from error
    if content["name"] != name or not np.array_equal(content["points"].numpy(), points):
        raise Damaged("it is of another job")
    state: State = content["state"]
    return state
