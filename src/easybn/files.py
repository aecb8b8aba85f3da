"""Files: written so that they survive a kill, and read with care where others made them.

A file or folder is made beside its place, flushed to the disk, and renamed into it. Meanwhile it is called
``.NAME.<32 hexadecimal digits>.easybn-part`` and its process holds a lock on it. What a killed process leaves under
such a name is removed by the next one that writes ``NAME``, or starts work in that folder (:func:`sweep`); a part whose
lock is held, and everything under any other name, is left alone.

What is read is a regular file of a size that fits its purpose: a pipe or a device in its place would be waited for
without end, and a sparse file of a terabyte would fill the memory.
"""

import errno
import io
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, BinaryIO

try:
    import fcntl
except ImportError:  # no POSIX: parts are not locked, and what a kill leaves stays
    fcntl = None  # type: ignore[assignment]

MOST_IMAGE = 2**28  # bytes of one picture: far above any sensible one
MOST_TEXT = 2**26  # bytes of JSON, YAML or rows: a thousand times what any of ours has

_PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{32}\.easybn-part", re.DOTALL)
_WHAT_TO_DO = {
    errno.ENOSPC: "the disk is full: make room and run the same command again; what was written before is complete",
    errno.EDQUOT: "the quota is used up: make room and run the same command again; what was written before is complete",
    errno.EROFS: "the file system is read-only: give a folder that can be written",
    errno.EACCES: "it may not be written: give another folder, or change its permissions",
    errno.EEXIST: "there is a file in the place of a folder: give another name",
    errno.ENOTDIR: "there is a file in the place of a folder: give another name",
    errno.EISDIR: "there is a folder in the place of a file: give another name",
    errno.EPERM: "it may not be written: give another folder, or change its permissions",
}


class Removed(OSError):
    """The folder that a process works in was removed, or made anew by another process."""


@contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file to write; when the block ends well it takes the place of ``path``, else nothing changes.

    Raises:
        OSError: it cannot be written; of a full disk and a folder without permission the message says what to do.
        Removed: see :func:`guarding`.
    """
    path = Path(path)
    with explained(path):
        check_guards(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, lambda name: name == path.name)
        part, file = _new_part(path)
        try:
            yield file
            sync(file)
            if fcntl is None:  # no open file can be renamed there
                file.close()
            check_guards(path)
            part.replace(path)
        finally:
            with suppress(OSError):  # what could not be written has been reported by then
                file.close()
            part.unlink(missing_ok=True)
        _sync_folder(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """Replace the content of ``path`` by ``text``, or leave it as it was if that fails."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside ``target``; at the end of the block it becomes ``target``, in one step.

    The files in it are to be closed and on the disk (:func:`sync`) by then. If another process was
    first, its folder stays and this one is dropped.
    """
    with explained(target):
        check_guards(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, lambda name: name == target.name)
        with _new_locked_folder(target) as part:
            try:
                yield part
                _sync_folder(part)
                check_guards(target)
                try:
                    part.rename(target)
                except OSError:
                    if not target.is_dir():
                        raise
                _sync_folder(target.parent)
            finally:
                shutil.rmtree(part, ignore_errors=True)


@contextmanager
def scratch_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside ``place``, removed at the end of the block; what a kill leaves is removed by the next."""
    with explained(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(place.parent, lambda name: name == place.name)
        part = _part_of(place)
        part.mkdir()
    with _held(part):
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def discard(folder: Path, names: Collection[str]) -> None:
    """Remove a folder that holds only files of these ``names``; no other process ever sees half of it.

    Raises:
        FileExistsError: it is a link, or holds anything else; then nothing is removed.
    """
    with suppress(FileNotFoundError):  # another process was first
        if folder.is_symlink() or any(entry.name not in names or entry.is_dir() for entry in folder.iterdir()):
            what = "it is damaged, and holds files that are not easybn's: move it away"
            raise FileExistsError(errno.EEXIST, what, str(folder))
        part = _part_of(folder)
        folder.rename(part)
        with _held(part):
            shutil.rmtree(part, ignore_errors=True)


def sweep(folder: Path, ours: Callable[[str], bool]) -> None:
    """Remove the parts that killed processes have left in ``folder``.

    Args:
        ours: whether a part of a file or folder of this name may be removed.
    """
    if fcntl is None:
        return
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if (part := _PART.fullmatch(entry.name)) and ours(part["name"])]
    except OSError:
        return
    for name in names:
        with suppress(OSError):  # alive, or another process is removing it
            _remove_dead(folder / name)


@contextmanager
def guarding(folder: Path, anchor: Path) -> Iterator[None]:
    """Inside the block this module writes nothing into ``folder`` once ``anchor`` is no longer the same file.

    So a process does not write into a folder that was removed, or made anew for something else, while it was running.

    Args:
        folder: the guarded folder.
        anchor: a file in it that stays as long as the folder is the same one: its lock, or its first file.
    """
    try:
        handle = os.open(anchor, os.O_RDONLY)  # while it is open, no other file gets its number
    except FileNotFoundError as error:
        raise Removed(f"{folder} was removed meanwhile: run the same command again") from error
    guard = (folder.absolute(), anchor.absolute(), _identity(os.fstat(handle)))
    token = _guards.set((*_guards.get(), guard))
    try:
        yield
    finally:
        _guards.reset(token)
        os.close(handle)


def check_guards(path: Path) -> None:
    """Raise :class:`Removed` if ``path`` lies in a guarded folder that is no longer the same."""
    for folder, anchor, identity in _guards.get():
        if not path.absolute().is_relative_to(folder):
            continue
        try:
            handle = os.open(anchor, os.O_RDONLY)  # a network file system may answer stat from what it remembers
            try:
                same = _identity(os.fstat(handle)) == identity
            finally:
                os.close(handle)
        except OSError:
            same = False
        if not same:
            raise Removed(
                f"{folder} was removed, or is another process's now, while this one was at work in it: nothing more is "
                "written there; run the same command again, or give another folder"
            )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """A full disk or a missing permission inside the block is an OSError that names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        what, about = _WHAT_TO_DO.get(error.errno or 0), Path(error.filename or path)
        explained_before = error.strerror in _WHAT_TO_DO.values()
        if what is None or (explained_before and not any(_PART.fullmatch(part) for part in about.parts)):
            raise
        here, parent = str(about.absolute()), str(path.parent.absolute())
        if not (here.startswith(parent) or parent.startswith(here)):  # of a file that was to be read
            raise
        raise OSError(error.errno, what, str(path)) from error


def check_regular(path: Path | str, most: int | None = None) -> None:
    """Raise unless ``path`` is a regular file (or a link to one) of at most ``most`` bytes.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a folder, pipe, socket or device, or a file that is too large.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is {_kind(status.st_mode)}, no file")
    if most is not None and status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes, more than the {most:,} that are read of such a file")


def open_regular(path: Path | str, most: int | None = None) -> io.BufferedReader:
    """A regular file, opened to be read, see :func:`check_regular`.

    What is opened is what was checked: a file that is exchanged for a pipe in between is not waited for.
    """
    check_regular(path, most)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file: io.BufferedReader = io.BufferedReader(io.FileIO(handle, "rb"))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise ValueError(f"{path} is no file")
    return file


def read_bytes(path: Path | str, most: int | None = None) -> bytes:
    """The content of a regular file, see :func:`check_regular`."""
    with open_regular(path, most) as file:
        content = file.read(2**16)  # a larger number would allocate as much
        if len(content) == 2**16:
            content += file.read() if most is None else file.read(most + 1 - len(content))
    if most is not None and len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes")
    return content


def read_text(path: Path | str, most: int = MOST_TEXT) -> str:
    """The UTF-8 text of a regular file; ValueError, with the file's name, if it is none."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from None


def sync(file: IO[bytes]) -> None:
    """Flush what was written to ``file`` to the disk."""
    file.flush()
    os.fsync(file.fileno())


# of this thread: another one may hold the folder that was made anew
_guards: ContextVar[tuple[tuple[Path, Path, tuple[int, int]], ...]] = ContextVar("guards", default=())


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)  # the rename itself
        finally:
            os.close(handle)


def _part_of(target: Path) -> Path:
    """A new name beside ``target``."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.easybn-part")


def _new_part(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside ``target``, locked."""
    while True:
        part = _part_of(target)
        file = part.open("xb")
        # another process may have taken it for abandoned before it was locked
        if _lock(file.fileno()) and part.exists():
            return part, file
        file.close()
        part.unlink(missing_ok=True)


@contextmanager
def _new_locked_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target``, locked."""
    while True:
        part = _part_of(target)
        part.mkdir()
        if fcntl is None:
            yield part
            return
        try:
            handle = os.open(part, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for abandoned before it was locked
            continue
        try:
            if _lock(handle) and part.exists():
                yield part
                return
        finally:
            os.close(handle)


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """The lock on a folder."""
    if fcntl is None:
        yield
        return
    handle = os.open(part, os.O_RDONLY)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether nobody else holds the lock; it is ours then, where the file system has locks."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # the file system has none, and nobody sweeps there
            pass
    return True


def _remove_dead(part: Path) -> None:
    handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        folder = stat.S_ISDIR(status.st_mode)
        if not folder and not stat.S_ISREG(status.st_mode):
            return
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _identity(part.lstat()) == _identity(status):
            shutil.rmtree(part) if folder else part.unlink()
    finally:
        os.close(handle)


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
    ):  # fmt: skip
        if test(mode):
            return name
    return "something else"
