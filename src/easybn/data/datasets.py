"""Published data sets, read by torchvision and medmnist: found, verified, downloaded.

A file is read only once its checksum is known to be right: the md5 that torchvision or medmnist has of it, or for
Fashion-MNIST, whose files are packed in several ways, the sha256 of what is in them. That is also why torchvision may
open the pickles of CIFAR: an archive with that md5 is the original, and every file in it is tested again.

Both libraries are imported only where something is decoded or downloaded.
"""

import gzip
import hashlib
import http.client
import io
import os
import socket
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import open_regular, scratch_folder, sync
from ..progress import OnProgress, silent
from .cache import Part, Undecoded, cache_folder, cached, origin_of
from .source import Source
from .split import DataError

VARIABLE = "EASYBN_DATA"  # the environment's name for the folder of data sets
_LARGEST = 2**27  # bytes that a packed file may hold: twice Fashion-MNIST's
_PATIENCE = 30.0  # seconds to wait for a server that does not answer


class Original(NamedTuple):
    """A published file: where it can be downloaded, and its md5."""

    urls: Sequence[str]
    md5: str


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it. Subclasses say how a library reads it.

    Args:
        name: what :func:`easybn.data.load` calls it.
        title: its authors' name for it.
        library: the class in torchvision.datasets, or the key in medmnist.INFO.
        files: the names of the original files.
        folders: what a folder of them may be called below a root folder; downloads go into the first.
        shape: (C, H, W) of its images.
        classes: how many there are.
        train, test: numbers of images.
        licence: one sentence about its terms.
        extra: further folders that may hold the files.
    """

    name: str
    title: str
    library: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    licence: str
    extra: tuple[Path, ...] = ()

    @property
    def own_names(self) -> bool:
        """Whether no other data set has files of these names; if not, only folders named for it are searched."""
        return True

    def originals(self) -> list[Original]:
        """Of each of ``files``."""
        raise NotImplementedError

    def arrays(self, files: Sequence[Path], folder: Path) -> Iterator[tuple[Any, Any, Sequence[str]]]:
        """(images (N, C, H, W) uint8, labels (N,), names of the classes) of the training and of the test images.

        Args:
            files: verified.
            folder: empty, to unpack them into.
        """
        raise NotImplementedError

    def verify(self, files: Sequence[Path]) -> None:
        """Raise DataError unless all files are the original ones."""
        for path, original in zip(files, self.originals(), strict=True):
            _check_digest(path, original.md5, "md5", self.title)

    def roots(self, folder: str | Path | None = None) -> list[Path]:
        """The folders that are searched, and those below: ``folder`` alone if it is given."""
        if folder is not None:
            return [Path(folder).expanduser()]
        named = os.environ.get(VARIABLE, "")
        return [*([Path(named).expanduser()] if named else []), cache_folder(), *self.extra]

    def find(self, folder: str | Path | None = None) -> tuple[Path, ...] | None:
        """The files in the first folder that has them all; None if there is none."""
        for root in self.roots(folder):
            for place in (*(root / name for name in self.folders), *([root] if self.own_names or folder else [])):
                paths = [path for name in self.files if (path := self.file_in(place, name)) is not None]
                if len(paths) == len(self.files):
                    return tuple(paths)
        return None

    def file_in(self, folder: Path, name: str) -> Path | None:
        """The file called ``name`` in ``folder``, or what serves as well; None if there is none."""
        return folder / name if _is_file(folder / name) else None

    def advice(self, folder: str | Path | None = None) -> str:
        """One line: what is missing, where it was searched for, and what to do."""
        below = " or ".join(f"{name}/" for name in self.folders)
        return (
            f"{self.title} was not found in {', '.join(map(str, self.roots(folder)))} (nor in {below} below): put "
            f"{', '.join(self.files)} into one of these, name their folder by {VARIABLE}, or download: "
            f"easybn data {self.name} --download (in Python download=True)"
        )

    def load(
        self,
        folder: str | Path | None = None,
        *,
        download: bool = False,
        cache: bool = True,
        progress: OnProgress | None = None,
    ) -> Source:
        """The data set, verified.

        Args:
            folder: where its files are, or the folder above; then no other is searched. By default
                ``$EASYBN_DATA``, the cache folder, and where the system keeps it.
            download: get the files if they are not found, into ``folder`` or the cache folder.
            cache: keep the decoded images, so that the next call takes no time.
            progress: called as the decoding advances; by default a bar on the terminal.

        Raises:
            DataError: not found, cannot be downloaded, damaged, or not the original.
        """
        files = self.find(folder)
        if files is None and download:
            home = cache_folder() / self.folders[0] if folder is None else Path(folder).expanduser()
            self.download(home, silent if progress is None else progress)
            files = self.find(folder)
        if files is None:
            raise DataError(self.advice(folder))
        there = files
        origin = origin_of([(str(path.resolve()), path.stat()) for path in there], kind=self.name)
        return cached(self.name, origin, lambda: self.decoded(there), cache=cache, progress=progress)

    def decoded(self, files: Sequence[Path]) -> Undecoded:
        """The images of verified files, in memory.

        Raises:
            DataError: they are not the original ones.
        """
        self.verify(files)
        with _scratch() as folder, warnings.catch_warnings(action="ignore"):  # the libraries' own
            try:
                parts = list(self.arrays(files, folder))
            except DataError:
                raise
            except Exception as error:  # whatever a library raises for a file it does not understand
                reason = str(error).partition("\n")[0]
                raise DataError(
                    f"{files[0]}: {self.title} cannot be read ({type(error).__name__}: {reason}): download it again"
                ) from error
        train, test = (Part.of_array(np.asarray(x), np.asarray(y).astype(np.int64)) for x, y, _ in parts)
        return Undecoded(self.name, tuple(parts[0][2]), self.shape, train, test)

    def download(self, folder: Path, progress: OnProgress = silent) -> None:
        """Get the files that ``folder`` does not have; torchvision verifies them, and draws a bar on a terminal.

        Args:
            progress: called when a file has arrived, with its bytes.

        Raises:
            DataError: no address gave a file with the right checksum; nothing is kept of it.
        """
        from torchvision.datasets.utils import download_url

        for name, original in zip(self.files, self.originals(), strict=True):
            failures = []
            for url in () if self.file_in(folder, name) else original.urls:
                try:
                    with scratch_folder(folder / name) as scratch, _limited():
                        download_url(url, str(scratch), name, original.md5)
                        with (scratch / name).open("rb") as file:
                            sync(file)
                        (scratch / name).replace(folder / name)
                    size = (folder / name).stat().st_size
                    progress(size, size, name)
                    break
                except (OSError, RuntimeError, http.client.HTTPException) as error:
                    failures.append(f"{url} ({str(error).partition(chr(10))[0]})")
            else:
                if failures:
                    raise DataError(
                        f"could not download {name}; tried {' and '.join(failures)}: get it by other means and put "
                        f"it into {folder}"
                    )

    def _class(self) -> Any:
        return getattr(import_module("torchvision.datasets"), self.library)


@dataclass(frozen=True)
class Mnist(Published):
    """MNIST and its kin: four idx files, each packed by gzip.

    Args:
        contents: sha256 of what is in each file; then it may be packed in any way, or not at all.
        mirrors: further addresses, before torchvision's.
    """

    contents: dict[str, str] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()

    @property
    def own_names(self) -> bool:
        return bool(self.contents)  # Fashion-MNIST, whose files may lie in the root folder itself

    def originals(self) -> list[Original]:
        kind = self._class()
        return [Original([at + name for at in (*self.mirrors, *kind.mirrors)], md5) for name, md5 in kind.resources]

    def file_in(self, folder: Path, name: str) -> Path | None:
        plain = folder / name.removesuffix(".gz")
        found = super().file_in(folder, name)
        return plain if found is None and self.contents and _is_file(plain) else found

    def verify(self, files: Sequence[Path]) -> None:
        if not self.contents:  # else what is in them is verified, before it is read
            super().verify(files)

    def arrays(self, files: Sequence[Path], folder: Path) -> Iterator[tuple[Any, Any, Sequence[str]]]:
        kind = self._class()
        raw = folder / kind.__name__ / "raw"
        raw.mkdir(parents=True)
        for name, path in zip(self.files, files, strict=True):
            target = raw / name.removesuffix(".gz")
            target.write_bytes(_unpacked(path))
            if self.contents:
                try:
                    _check_digest(target, self.contents[name], "sha256", self.title)
                except DataError as error:
                    raise DataError(str(error).replace(str(target), str(path))) from None
        for train in (True, False):
            part = kind(folder, train=train)
            yield part.data.numpy()[:, None], part.targets.numpy(), part.classes


@dataclass(frozen=True)
class Archive(Published):
    """A tar.gz archive: CIFAR-10, CIFAR-100, STL-10."""

    def originals(self) -> list[Original]:
        return [Original([self._class().url], self._class().tgz_md5)]

    def arrays(self, files: Sequence[Path], folder: Path) -> Iterator[tuple[Any, Any, Sequence[str]]]:
        from torchvision.datasets.utils import extract_archive

        extract_archive(str(files[0]), str(folder))
        kind = self._class()
        for split in ("train", "test"):
            if hasattr(kind, "splits"):  # STL-10
                part = kind(folder, split=split)
                yield part.data, part.labels, part.classes
            else:
                part = kind(folder, train=split == "train")
                yield part.data.transpose(0, 3, 1, 2), part.targets, part.classes


@dataclass(frozen=True)
class Svhn(Published):
    """Street View House Numbers: a MATLAB file for each split."""

    def originals(self) -> list[Original]:
        splits = self._class().split_list
        return [Original([url], md5) for url, _, md5 in (splits["train"], splits["test"])]

    def arrays(self, files: Sequence[Path], folder: Path) -> Iterator[tuple[Any, Any, Sequence[str]]]:
        for split in ("train", "test"):
            part = self._class()(files[0].parent, split=split)
            yield part.data, part.labels, [str(digit) for digit in range(10)]


@dataclass(frozen=True)
class MedMnist(Published):
    """A set of MedMNIST v2 (Yang et al., 2023), read by the package medmnist; its validation images are left out."""

    def roots(self, folder: str | Path | None = None) -> list[Path]:
        package = [Path.home() / ".medmnist"] if folder is None else []  # where the package itself keeps them
        return [*super().roots(folder), *package]

    def originals(self) -> list[Original]:
        about = self._package().INFO[self.library]
        return [Original([about["url"]], about["MD5"])]

    def arrays(self, files: Sequence[Path], folder: Path) -> Iterator[tuple[Any, Any, Sequence[str]]]:
        package = self._package()
        about = package.INFO[self.library]
        names = [about["label"][str(label)] for label in range(self.classes)]
        for split in ("train", "test"):
            part = getattr(package, about["python_class"])(split=split, root=str(files[0].parent))
            images = part.imgs[:, None] if part.imgs.ndim == 3 else part.imgs.transpose(0, 3, 1, 2)
            yield images, part.labels[:, 0], names

    def _package(self) -> Any:
        try:
            return import_module("medmnist")
        except ImportError as error:
            raise DataError(
                f"{self.title} needs the package medmnist ({error}): pip install 'easybn[medmnist]'"
            ) from None


def _check_digest(path: Path, expected: str, algorithm: str, title: str) -> None:
    """Raise DataError unless the file has this checksum."""
    try:
        with open_regular(path) as file:
            found = hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if found != expected:
        raise DataError(
            f"{path}: is not the original file of {title} ({algorithm} {found[:32]}, expected {expected[:32]}): "
            "download it again"
        )


def _unpacked(path: Path) -> bytes:
    """The content of a file, decompressed if its first bytes say gzip, whatever its name is."""
    try:
        with open_regular(path) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                content = file.read(_LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip stream is damaged or cut short ({error}): download it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > _LARGEST:
        raise DataError(f"{path}: holds more than {_LARGEST} bytes: download it again")
    return content


def _is_file(path: Path) -> bool:
    """Whether ``path`` is a file that may be seen; a folder that may not be entered has none."""
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder to unpack into: in the cache, which has room, or else in the system's folder for temporary files."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder(cache_folder() / "unpacked"))
        except OSError:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield folder


@contextmanager
def _limited() -> Iterator[None]:
    """Inside the block, connections time out, and no progress bar is drawn unless stderr is a terminal."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
