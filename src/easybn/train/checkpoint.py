"""The state of a training in one file: weights, optimiser, average and step; the rest follows from the step."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import replacing

VERSION = 1


@dataclass
class State:
    """What a training is at a step.

    Args:
        step: optimiser steps taken.
        model, optimizer: their state dicts.
        average: state dict of the moving average, if there is one.
        scaler: state of the loss scaling, if there is one.
        tally: of the epoch under way (see :mod:`easybn.train.step`).
        seconds: spent training so far.
        asked: the training's settings as text, by which it knows its own checkpoints.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    average: dict[str, Tensor] | None = None
    scaler: dict[str, Any] | None = None
    tally: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    asked: dict[str, str] = field(default_factory=dict)


def save(state: State, path: Path) -> None:
    """Write ``state`` to ``path`` in one piece: after a kill, the file is the one before or this one."""
    buffer = io.BytesIO()  # torch writes a zip, which wants to seek and may fail half-way: not into the file
    torch.save({"version": VERSION, **vars(state)}, buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load(path: Path) -> State:
    """The state at ``path``, its tensors on the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: the file is none of ours, or of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint ({type(error).__name__}): delete it to start again") from error
    if not isinstance(content, dict) or content.pop("version", None) != VERSION:
        raise ValueError(f"{path} is no checkpoint of this version of easybn: delete it to start again")
    try:
        return State(**content)
    except TypeError as error:
        raise ValueError(f"{path} is no whole checkpoint ({error}): delete it to start again") from error
