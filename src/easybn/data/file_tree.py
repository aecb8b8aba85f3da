"""The files below a folder or inside a zip, by their relative names: one interface to list and read both."""

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from ..files import check_regular, open_regular, read_bytes
from .split import DataError

LARGEST = 2**28  # bytes of one file, before and after decompression: far above any sensible image
_UTF8 = 0x800  # flag of a zip entry whose name is UTF-8


class Tree(Protocol):
    """Files by name; the parts of a name are separated by '/'."""

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        ...

    def notes(self) -> list[str]:
        """What a reader should know about the names."""
        ...

    def folders(self) -> list[str]:
        """The names of all folders, empty ones among them, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one file; DataError if it cannot be read."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """One file, from which not all may be read; DataError if it cannot be opened."""
        ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        return sorted((below / file).as_posix() for below, files in self._walk() for file in files)

    def notes(self) -> list[str]:
        return []

    def folders(self) -> list[str]:
        return sorted(below.as_posix() for below, _ in self._walk() if below.parts)

    def _walk(self) -> Iterator[tuple[Path, list[str]]]:
        def fail(error: OSError) -> None:
            raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from None

        for folder, below, files in os.walk(self.root, onerror=fail, followlinks=True):
            for link in (Path(folder, name) for name in below if Path(folder, name).is_symlink()):
                check_link(link, self.root)
            yield Path(folder).relative_to(self.root), files

    def read(self, name: str) -> bytes:
        path = self.root / name
        try:
            return read_bytes(path, LARGEST)
        except ValueError as error:
            raise DataError(f"{error}: no image") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None

    def open(self, name: str) -> IO[bytes]:
        try:
            return open_regular(self.root / name, LARGEST)
        except ValueError as error:
            raise DataError(f"{error}: no image") from None
        except OSError as error:
            raise DataError(f"{self.root / name}: cannot be read: {error.strerror or error}") from None


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.entries: dict[str, zipfile.ZipInfo] = {}
        self.parents: set[str] = set()
        self.guessed = ""
        for entry in archive.infolist():
            name, guessed = _name_of(entry)
            if guessed and "\\" in entry.filename and "/" in entry.filename:  # a byte of a letter in some code pages
                raise DataError(f"{path}: the name {entry.filename!r} is in an unknown code page: zip it in UTF-8")
            self.guessed = self.guessed or name * guessed
            # nothing is ever extracted, but such a name shows that the archive is not what it seems
            if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name):
                raise DataError(f"{path}: the entry {entry.filename!r} leads out of the archive: do not use this file")
            is_folder, plain = name.endswith("/"), PurePosixPath(name).as_posix()
            self.parents |= {str(parent) for parent in PurePosixPath(plain).parents}
            if is_folder:
                self.parents.add(plain)
            elif plain in self.entries:
                raise DataError(f"{path}: two entries have the same name, {plain!r}: make the archive again")
            else:
                self.entries[plain] = entry

    def notes(self) -> list[str]:
        note = f"names in the zip that are not UTF-8 are read in the old PC code page, such as {self.guessed!r}"
        return [note] if self.guessed else []

    def names(self) -> list[str]:
        return sorted(self.entries)

    def folders(self) -> list[str]:
        return sorted(self.parents - {"."})

    def read(self, name: str) -> bytes:
        with self._reading(name):
            if self.entries[name].file_size > LARGEST:
                raise DataError(f"{self.path}: {name} has more than {LARGEST} bytes: no image")
            return self.archive.read(self.entries[name])  # never more than the announced size

    def open(self, name: str) -> IO[bytes]:
        return io.BytesIO(self.read(name))  # a picture is read from the start twice, which is slow in a zip

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            # RuntimeError: a password is needed
            raise DataError(f"{self.path}: {name} cannot be read: {error}") from None


def _name_of(entry: zipfile.ZipInfo) -> tuple[str, bool]:
    """The entry's name with '/' between its parts, as Windows' own tools do not always have it; whether it is a guess.

    Without the flag that says UTF-8 a name is in the code page of old PCs, yet many programs store UTF-8 there too.
    """
    name, guessed = entry.filename, False
    if not entry.flag_bits & _UTF8 and not name.isascii():
        guessed = True
        with suppress(UnicodeEncodeError, UnicodeDecodeError):
            name, guessed = name.encode("cp437").decode(), False
    return name.replace("\\", "/"), guessed


def check_link(link: Path, root: Path) -> None:
    """Raise DataError for a link below ``root`` to a folder that contains it: the search for images would not end."""
    target = link.resolve()
    around = [link.parent, *link.parent.parents]
    inside = around[: around.index(root) + 1] if root in around else around
    if any(folder.resolve().is_relative_to(target) for folder in inside):
        raise DataError(f"{link}: is a link to {target}, a folder that holds it: remove the link")


@contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    """The files of ``path``, a folder or a zip.

    Raises:
        DataError: it is neither, a damaged zip, or one with names that lead out of it or that repeat.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        check_regular(path)
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such folder or zip file") from None
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is neither a folder nor a readable zip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    with archive:
        yield _Zip(path, archive)
