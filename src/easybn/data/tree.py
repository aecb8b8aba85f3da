"""The files below a folder or inside a zip, by their relative names: one way to list and read both."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from .errors import DataError

LARGEST = 2**28  # bytes of one file, before and after decompression: far above any sensible image


class Tree(Protocol):
    """Files by name; the parts of a name are separated by '/'."""

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one file; DataError if it cannot be read."""
        ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        def fail(error: OSError) -> None:
            raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from None

        found = []
        for folder, _, files in os.walk(self.root, onerror=fail, followlinks=True):
            below = Path(folder).relative_to(self.root)
            found += [(below / file).as_posix() for file in files]
        return sorted(found)

    def read(self, name: str) -> bytes:
        path = self.root / name
        try:
            if path.stat().st_size > LARGEST:
                raise DataError(f"{path}: has more than {LARGEST} bytes: no image")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive

    def names(self) -> list[str]:
        found = [entry.filename for entry in self.archive.infolist() if not entry.is_dir()]
        for name in found:
            # nothing is ever extracted, yet such a name says that the archive is not what it seems
            if name.startswith("/") or "\\" in name or ".." in name.split("/") or re.match("[A-Za-z]:", name):
                raise DataError(f"{self.path}: the entry {name!r} leads out of the archive: do not use this file")
        if len(set(found)) < len(found):
            raise DataError(f"{self.path}: two entries have the same name: make the archive again")
        return sorted(found)

    def read(self, name: str) -> bytes:
        try:
            if self.archive.getinfo(name).file_size > LARGEST:
                raise DataError(f"{self.path}: {name} has more than {LARGEST} bytes: no image")
            return self.archive.read(name)  # never more than the announced size
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            # RuntimeError: a password is needed
            raise DataError(f"{self.path}: {name} cannot be read: {error}") from None


@contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    """The files of ``path``, a folder or a zip.

    Raises:
        DataError: it is neither, or a damaged zip.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such folder or zip file") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: is neither a folder nor a readable zip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    with archive:
        yield _Zip(path, archive)
