"""The state of a training in one file: weights, optimiser, average and step; the rest follows from the step.

The file is a zip, as torch writes it, whose comment is a checksum of all before it. The one before is kept beside it as
``NAME.previous.EXT``, to go on from should the disk damage the newer one.
"""

import hashlib
import io
import os
import shutil
import uuid
import warnings
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..copying import copied
from ..files import explained, open_regular, replacing
from ..json_files import Damaged
from .observers import Moment

# The exponential moving average of a model's weights and statistics.


class Average:
    """Every floating point entry of the state dict averaged, the others copied (timm's ModelEmaV3).

    Args:
        model: to be averaged; its present state is where the average starts.
        decay: weight of the past at each update, such as 0.999.
    """

    def __init__(self, model: nn.Module, decay: float):
        from timm.utils.model_ema import ModelEmaV3  # imported where it is asked for: timm takes a second

        self._ema = ModelEmaV3(copied(model), decay=decay)  # it makes a copy of its own, by copy.deepcopy

    @property
    def model(self) -> nn.Module:
        """The averaged model."""
        return self._ema.module

    def update(self, model: nn.Module) -> None:
        self._ema.update(model)

    def state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.model.load_state_dict(state)


VERSION = 1
_MARK = b"easybn checksum "
_END = b"PK\x05\x06"  # of the last 22 bytes of a zip; their last two are the length of its comment
_SIZE = 32  # hexadecimal digits of the checksum


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
    """Write ``state`` to ``path`` in one piece: after a kill, the file is the one before or this one.

    The file that was there is kept as :func:`previous`.
    """
    buffer = io.BytesIO()  # torch writes a zip, which wants to seek and may fail half-way: not into the file
    torch.save({"version": VERSION, **vars(state)}, buffer)
    content = buffer.getbuffer()[:-2]
    comment = _MARK + hashlib.blake2b(content, digest_size=_SIZE // 2).hexdigest().encode()
    with replacing(path) as file:
        file.write(content)
        file.write(len(comment).to_bytes(2, "little") + comment)
        _also_as(path, previous(path))


def load(path: Path) -> State:
    """The state at ``path``, its tensors on the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        Damaged: the file is none of ours, or of another version, or not what was written.
    """
    with open_regular(path) as file:
        _check(file, path)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:
            raise Damaged(f"{path} is no checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.pop("version", None) != VERSION:
        raise Damaged(f"{path} is no checkpoint of this version of easybn")
    try:
        return State(**content)
    except TypeError as error:
        raise Damaged(f"{path} is no whole checkpoint ({error})") from error


def resume(path: Path) -> State | None:
    """The state to go on from: of ``path``, or of the file before it should that one be damaged; None to begin.

    Without ``path`` a training begins, whatever else is there. A damaged file is put aside as ``*.corrupt``.

    Raises:
        Damaged: both are damaged, or there is one alone and it is.
    """
    if not path.exists():
        return None
    try:
        return load(path)
    except Damaged as error:
        older = previous(path)
        if not older.exists():
            raise Damaged(f"{error}: delete it to start again") from error
        try:
            state = load(older)
        except Damaged as too:
            raise Damaged(f"{error}, and so is the one before ({too}): delete both to start again") from error
        aside = path.with_name(path.name + ".corrupt")
        with explained(path):
            _also_as(path, aside)
            _also_as(older, path)
        told = f"{error}: resuming from {older.name}, step {state.step}; the damaged file is kept as {aside.name}"
        warnings.warn(told, stacklevel=3)
        return state


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` is."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def forget(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)


def _check(file: BinaryIO, path: Path) -> None:
    """See that all is as it was written; Damaged if not. The file is at its start then."""
    length = len(_MARK) + _SIZE
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - length - 22))
    tail = file.read()
    file.seek(0)
    if size < 22 or file.read(4) != b"PK\x03\x04":
        raise Damaged(f"{path} is no checkpoint ({'no zip file' if size else 'it is empty'})")
    file.seek(0)
    if tail[-22:-18] == _END and tail[-2:] == b"\0\0":  # of an earlier version: the zip's own checksums have to do
        try:
            with zipfile.ZipFile(file) as archive:
                wrong = archive.testzip()
        except Exception as error:  # zipfile raises half a dozen kinds for bytes that make no sense
            raise _damaged(path, str(error)) from error
        if wrong is not None:
            raise _damaged(path, f"the checksum of {wrong} is another one")
    else:
        comment = tail[-length:]
        if tail[:4] != _END or tail[20:22] != length.to_bytes(2, "little") or not comment.startswith(_MARK):
            raise _damaged(path, "it is cut off, or its end is another one")
        total, left = hashlib.blake2b(digest_size=_SIZE // 2), size - length - 2
        while left:
            block = file.read(min(left, 1 << 22))
            if not block:
                raise _damaged(path, "it was changed while it was read")
            total.update(block)
            left -= len(block)
        if total.hexdigest().encode() != comment[len(_MARK) :]:
            raise _damaged(path, "its checksum is another one")
    file.seek(0)


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(f"{path} is damaged ({why})")


def _also_as(path: Path, name: Path) -> None:
    """``name`` becomes another name of the file at ``path``, or a copy where a file has but one; nothing without it."""
    if not path.exists():
        return
    part = name.with_name(f".{name.name}.{uuid.uuid4().hex}.easybn-part")
    try:
        try:
            part.hardlink_to(path)
        except (OSError, NotImplementedError):
            shutil.copyfile(path, part)
        part.replace(name)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


# From the parts of a training to its state, and back.


@dataclass(frozen=True)
class Parts:
    """What changes from step to step.

    Args:
        moment: with the model, the step, the tally and the seconds.
        images: number of training images.
        optimizer, average, scaler: the last two if there are any.
    """

    moment: Moment
    images: int
    optimizer: torch.optim.Optimizer
    average: Average | None
    scaler: torch.amp.GradScaler | None

    @property
    def asked(self) -> dict[str, str]:
        """The settings that a checkpoint must share with the training that goes on from it."""
        training = {name: repr(value) for name, value in vars(self.moment.training).items()}
        recipe = repr(self.moment.recipe)
        recipe = type(self.moment.recipe).__name__ if " at 0x" in recipe else recipe  # an address says nothing
        return {"recipe": recipe, "images": str(self.images), **training}

    def state(self) -> State:
        """The state as it is now; its tensors are those in use, not copies."""
        return State(
            step=self.moment.step,
            model=self.moment.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            average=None if self.average is None else self.average.state_dict(),
            scaler=None if self.scaler is None else self.scaler.state_dict(),
            tally=self.moment.tally,
            seconds=self.moment.seconds,
            asked=self.asked,
        )

    def restore(self, state: State, path: Path) -> None:
        """Make ``state``, which was read from ``path``, the present one.

        Raises:
            ValueError: it is of another model, recipe or training.
        """
        if different := [f"{k}: {state.asked.get(k)} -> {v}" for k, v in self.asked.items() if state.asked.get(k) != v]:
            raise ValueError(f"{path} is a checkpoint of another training ({'; '.join(different)}): give another path")
        try:
            self.moment.model.load_state_dict(state.model)
            self.optimizer.load_state_dict(state.optimizer)
            if self.average is not None and state.average is not None:
                self.average.load_state_dict(state.average)
            if self.scaler is not None and state.scaler is not None:
                self.scaler.load_state_dict(state.scaler)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is a checkpoint of another model: give another path") from error
        device = next(self.moment.model.parameters()).device
        self.moment.tally = {name: row.to(device) for name, row in state.tally.items()}
        self.moment.step, self.moment.seconds = state.step, state.seconds
