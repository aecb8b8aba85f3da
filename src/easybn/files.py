"""Files and folders that survive a kill: made beside their place, flushed to the disk, renamed into it."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

_ABANDONED = 2 * 24 * 3600  # seconds after which a part is taken for the remains of a killed process


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file to write; when the block ends well it takes the place of ``path``, else nothing changes."""
    path = Path(path)
    part = _part_of(path)
    try:
        with part.open("xb") as file:
            yield file
            sync(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """``text`` as the whole of ``path``, or ``path`` as it was."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``; at the end of the block it becomes ``target``, in one step.

    The files in it are to be closed and on the disk (:func:`sync`) by then. If another process was
    first, its folder stays and this one is dropped.
    """
    part = _part_of(target)
    part.mkdir()
    try:
        yield part
        _sync_folder(part)
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder so that no other process ever sees half of it."""
    part = _part_of(folder)
    with suppress(FileNotFoundError):  # another process was first
        folder.rename(part)
    shutil.rmtree(part, ignore_errors=True)


def sync(file: IO[bytes]) -> None:
    """Have what was written to ``file`` on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)  # the rename itself
        finally:
            os.close(handle)


def _part_of(target: Path) -> Path:
    """A new name beside ``target``; what killed processes left for days under such names is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(".*.part"):
        with suppress(OSError):  # another process may be removing it too
            if time.time() - old.stat().st_mtime > _ABANDONED:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
