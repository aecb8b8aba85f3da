"""Checkpoints: the state of a training in one file, from which it resumes exactly.

Weights, optimiser, average and step are stored; everything else (order, augmentation, noise) follows from seed and
step. The file is a zip, as torch writes it, whose comment is a checksum of all bytes before it. The checkpoint before
it is kept as ``NAME.previous.EXT``, in case the newer one is damaged on disk.
"""

import hashlib
import io
import os
import shutil
import uuid
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..files import explained, open_regular, replacing, sweep
from ..json_files import Damaged
from .distributed import Processes
from .observers import TrainingState
from .step import total

VERSION = 1
_MARK = b"easybn checksum "
_END = b"PK\x05\x06"  # the last 22 bytes of a zip begin with this, and end with the length of its comment
_SIZE = 32  # hexadecimal digits of the checksum


@dataclass
class Checkpoint:
    """What is stored of a training after some step.

    Args:
        step: optimiser steps taken.
        model, optimizer: their state dicts.
        average: state dict of the moving average, if there is one.
        scaler: state of the loss scaling, if there is one.
        tally: sums over the current epoch so far, see :data:`easybn.train.step.Tally`.
        tallies: those of the other processes of a data parallel training.
        seconds: spent training so far.
        settings: the training's settings as text; a training resumes only from a checkpoint with the same ones.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    average: dict[str, Tensor] | None = None
    scaler: dict[str, Any] | None = None
    tally: dict[str, Tensor] = field(default_factory=dict)
    tallies: list[dict[str, Tensor]] = field(default_factory=list)
    seconds: float = 0.0
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, state: TrainingState, tallies: Sequence[dict[str, Tensor]] = ()) -> "Checkpoint":
        """The checkpoint of ``state`` as it is now; its tensors are those in use, not copies.

        Args:
            tallies: of all processes, in the order of their ranks; by default there is one.
        """
        return cls(
            step=state.step,
            model=state.model.state_dict(),
            optimizer=state.optimizer.state_dict(),
            average=None if state.average is None else state.average.state_dict(),
            scaler=None if state.scaler is None else state.scaler.state_dict(),
            tally=state.tally,
            tallies=list(tallies[1:]),
            seconds=state.seconds,
            settings=settings(state),
        )

    def restore(self, state: TrainingState, path: Path, any_processes: bool = False) -> None:
        """Put ``state`` back to this checkpoint, which was read from ``path``.

        Args:
            any_processes: whether it may be of a training by another number of processes.

        Raises:
            ValueError: it is of another model, recipe or training.
        """
        then, now = {**LATER, **self.settings}, settings(state)
        differences = [f"{name}: {then.get(name)} -> {value}" for name, value in now.items() if then.get(name) != value]
        processes = f"processes: {then['processes']} -> {now['processes']}"
        if differences == [processes]:
            if not any_processes:
                raise ValueError(
                    f"{path} is a checkpoint of {then['processes']} processes, and there are {now['processes']} now: "
                    "start as many, or allow another number (any_processes), which changes the results"
                )
        elif differences:
            raise ValueError(
                f"{path} is a checkpoint of another training ({'; '.join(differences)}): give another path"
            )
        try:
            state.model.load_state_dict(self.model)
            state.optimizer.load_state_dict(self.optimizer)
            if state.average is not None and self.average is not None:
                state.average.load_state_dict(self.average)
            if state.scaler is not None and self.scaler is not None:
                state.scaler.load_state_dict(self.scaler)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is a checkpoint of another model: give another path") from error
        device = next(state.model.parameters()).device
        state.tally = {name: sums.to(device) for name, sums in self._tally(state.processes).items()}
        state.step, state.seconds = self.step, self.seconds

    def _tally(self, processes: Processes) -> dict[str, Tensor]:
        """What is this process's: if there was another number of them, the first one takes over all."""
        every = [self.tally, *self.tallies]
        if len(every) == processes.count:
            return every[processes.rank]
        return total(every) if processes.first else {}


LATER = {"processes": "1", "sync_batchnorm": "None"}
"""Settings that checkpoints of earlier versions do not have."""


def settings(state: TrainingState) -> dict[str, str]:
    """The settings that a checkpoint must share with the training that resumes from it."""
    training = {name: repr(value) for name, value in vars(state.training).items()}
    recipe = repr(state.recipe)
    recipe = type(state.recipe).__name__ if " at 0x" in recipe else recipe  # an address says nothing
    return {"recipe": recipe, "images": str(state.images), "processes": str(state.processes.count), **training}


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint`` to ``path`` atomically: if killed, the file is either the old one or the new one.

    The old one is kept at :func:`previous`.
    """
    buffer = io.BytesIO()  # torch.save seeks, and may fail half-way: so not directly into the file
    torch.save({"version": VERSION, **vars(checkpoint)}, buffer)
    content = buffer.getbuffer()[:-2]
    comment = _MARK + hashlib.blake2b(content, digest_size=_SIZE // 2).hexdigest().encode()
    with replacing(path) as file:
        file.write(content)
        file.write(len(comment).to_bytes(2, "little") + comment)
        _also_as(path, previous(path))


def load(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, its tensors on the CPU; only tensors and plain values are unpickled.

    Raises:
        Damaged: the file is no checkpoint of ours, of another version, or not as it was written.
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
    if "asked" in content:  # what earlier versions called it
        content["settings"] = content.pop("asked")
    try:
        return Checkpoint(**content)
    except TypeError as error:
        raise Damaged(f"{path} is an incomplete checkpoint ({error})") from error


def resume(path: Path) -> Checkpoint | None:
    """The checkpoint to resume from: ``path``, or the one before it if ``path`` is damaged; None if there is no file.

    A damaged file is renamed to ``*.corrupt``, with a warning. What a kill has left half-written of either is removed.

    Raises:
        Damaged: ``path`` is damaged, and so is the one before it, or there is none.
    """
    sweep(path.parent, {path.name, previous(path).name}.__contains__)
    if not path.exists():
        return None
    try:
        return load(path)
    except Damaged as error:
        older = previous(path)
        if not older.exists():
            raise Damaged(f"{error}: delete it to start again") from error
        try:
            checkpoint = load(older)
        except Damaged as too:
            raise Damaged(f"{error}, and so is the one before ({too}): delete both to start again") from error
        aside = path.with_name(path.name + ".corrupt")
        with explained(path):
            _also_as(path, aside)
            _also_as(older, path)
        warnings.warn(
            f"{error}: resuming from {older.name}, step {checkpoint.step}; the damaged file is kept as {aside.name}",
            stacklevel=3,
        )
        return checkpoint


def previous(path: Path) -> Path:
    """The path of the checkpoint before the one at ``path``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def forget(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    path.unlink(missing_ok=True)
    previous(path).unlink(missing_ok=True)


def _check(file: BinaryIO, path: Path) -> None:
    """Damaged unless all bytes are as they were written; afterwards the file is at its start."""
    length = len(_MARK) + _SIZE
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - length - 22))
    tail = file.read()
    file.seek(0)
    if size < 22 or file.read(4) != b"PK\x03\x04":
        raise Damaged(f"{path} is no checkpoint ({'no zip file' if size else 'it is empty'})")
    file.seek(0)
    if tail[-22:-18] == _END and tail[-2:] == b"\0\0":  # of an earlier version: it has the zip's own checksums only
        try:
            with zipfile.ZipFile(file) as archive:
                wrong = archive.testzip()
        except Exception as error:  # zipfile raises half a dozen kinds for bytes that make no sense
            raise _damaged(path, str(error)) from error
        if wrong is not None:
            raise _damaged(path, f"the checksum of {wrong} does not match")
    else:
        comment = tail[-length:]
        if tail[:4] != _END or tail[20:22] != length.to_bytes(2, "little") or not comment.startswith(_MARK):
            raise _damaged(path, "it is cut off, or its end has changed")
        digest, remaining = hashlib.blake2b(digest_size=_SIZE // 2), size - length - 2
        while remaining:
            block = file.read(min(remaining, 1 << 22))
            if not block:
                raise _damaged(path, "it was changed while it was read")
            digest.update(block)
            remaining -= len(block)
        if digest.hexdigest().encode() != comment[len(_MARK) :]:
            raise _damaged(path, "its checksum does not match")
    file.seek(0)


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(f"{path} is damaged ({why})")


def _also_as(path: Path, name: Path) -> None:
    """Make ``name`` a hard link to the file at ``path``, or a copy where links are not possible, if there is one."""
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
