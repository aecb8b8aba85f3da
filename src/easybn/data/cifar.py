"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 colour images, 32 x 32, 10 or 100 classes.

Either official archive serves, the binary or the python version: they hold the same pixels. Its md5, as
published with it, is verified before it is opened.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .cache import cached, origin_of
from .cifar_archive import Arrays, from_binary, from_pickle, names_from_pickle, read_members
from .decoded import Part, Undecoded
from .errors import DataError
from .fetch import fetch
from .places import Wanted, is_file
from .progress import Progress, showing
from .source import Source

ADDRESS = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Archive:
    """One of the published archives: its name, its md5, and what its members are called."""

    file: str
    md5: str
    meta: str
    train: tuple[str, ...]
    test: str


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: its name, its archives, and how they tell labels and class names."""

    name: str
    title: str
    binary: Archive
    python: Archive
    label_bytes: int
    label_key: bytes
    names_key: bytes

    def wanted(self) -> Wanted:
        """What to look for: either archive."""

        def here(folder: Path) -> tuple[Path, ...] | None:
            found = [folder / archive.file for archive in (self.binary, self.python) if is_file(folder / archive.file)]
            return (found[0],) if found else None

        return Wanted(self.title, (f"{self.binary.file} (or {self.python.file})",), (self.name, self.title), here)

    def archive(self, path: Path) -> Archive:
        return self.python if path.name == self.python.file else self.binary


def _below(folder: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


CIFAR10 = Cifar(
    "cifar10",
    "CIFAR-10",
    Archive(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin/batches.meta.txt",
        _below("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)]),
        "cifar-10-batches-bin/test_batch.bin",
    ),
    Archive(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3d95e74349a",
        "cifar-10-batches-py/batches.meta",
        _below("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)]),
        "cifar-10-batches-py/test_batch",
    ),
    label_bytes=1,
    label_key=b"labels",
    names_key=b"label_names",
)

CIFAR100 = Cifar(
    "cifar100",
    "CIFAR-100",
    Archive(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary/fine_label_names.txt",
        ("cifar-100-binary/train.bin",),
        "cifar-100-binary/test.bin",
    ),
    Archive(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python/meta",
        ("cifar-100-python/train",),
        "cifar-100-python/test",
    ),
    label_bytes=2,
    label_key=b"fine_labels",
    names_key=b"fine_label_names",
)


def check_md5(path: Path, expected: str) -> None:
    """Refuse a file whose md5 is not ``expected``.

    Raises:
        DataError: it is another, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if found != expected:
        raise DataError(f"{path}: is not the official archive (md5 {found}, expected {expected}): fetch it again")


def _prepare(kind: Cifar, path: Path) -> Undecoded:
    archive = kind.archive(path)
    check_md5(path, archive.md5)
    members = read_members(path, (archive.meta, *archive.train, archive.test))

    def arrays(name: str) -> Arrays:
        where = f"{path}: {name}"
        if archive is kind.binary:
            return from_binary(members.pop(name), kind.label_bytes, where)
        return from_pickle(members.pop(name), kind.label_key, where)

    def part(names: tuple[str, ...]) -> Part:
        images, labels = zip(*map(arrays, names), strict=True)
        return Part.of_array(np.concatenate(images), np.concatenate(labels))

    meta = members.pop(archive.meta)
    if archive is kind.binary:
        classes = tuple(meta.decode("ascii", "replace").split())
    else:
        classes = names_from_pickle(meta, kind.names_key, f"{path}: {archive.meta}")
    return Undecoded(kind.name, classes, (3, 32, 32), part(archive.train), part((archive.test,)))


def cifar(
    kind: Cifar,
    folder: str | Path | None = None,
    *,
    download: bool = False,
    cache: bool = True,
    progress: Progress | None = None,
) -> Source:
    """The whole data set, from an archive whose md5 is verified.

    Args:
        kind: ``CIFAR10`` or ``CIFAR100``.
        folder: where an archive is, or the folder above; then no other place is looked into. By default
            ``$EASYBN_DATA``, then the cache folder.
        download: fetch the binary version if none is found, into ``folder`` or the cache folder.
        cache: keep the decoded images, so that the next opening takes no time.
        progress: told how far the work is; by default a bar on the terminal.

    Raises:
        DataError: not found, not to be had, damaged, or not the official archive.
    """
    wanted = kind.wanted()
    files = wanted.find(folder)
    if files is None and download:
        target = wanted.home(folder) / kind.binary.file
        with showing(progress) as show:
            fetch([ADDRESS + target.name], target, partial(check_md5, expected=kind.binary.md5), show)
        files = (target,)
    if files is None:
        raise DataError(wanted.advice(folder))
    path = files[0]
    origin = origin_of([(str(path.resolve()), path.stat())], kind=kind.name)
    return cached(kind.name, origin, lambda: _prepare(kind, path), cache=cache, progress=progress)
