"""Files and folders that appear whole or not at all, whoever is killed and whoever else writes them."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_MARK = ".easybn-part-"
_ABANDONED = 2 * 24 * 3600  # seconds after which a part is taken for the remains of a killed process


def sync(file: IO[bytes]) -> None:
    """Have what was written to ``file`` on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _part_of(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f"{_MARK}*"):
        with suppress(OSError):  # another process may be removing it too
            if time.time() - old.stat().st_mtime > _ABANDONED:
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    return target.parent / f"{_MARK}{os.getpid()}-{secrets.token_hex(6)}"


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; at the end of the block it becomes ``target``, in one step."""
    part = _part_of(target)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
        _sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


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
