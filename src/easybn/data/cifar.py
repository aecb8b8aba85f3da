"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 colour images, 32 x 32, 10 or 100 classes.

Either official archive serves, the binary or the python version: they hold the same pixels. Its md5, as
published with it, is verified before it is opened.
"""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from ..reading import open_regular
from .cache import cached, origin_of
from .cifar_archive import Arrays, from_binary, from_pickle, names_from_pickle, read_members
from .cifar_kinds import Cifar
from .decoded import Part, Undecoded
from .errors import DataError
from .fetch import fetch
from .progress import Progress, showing
from .source import Source

ADDRESS = "https://www.cs.toronto.edu/~kriz/"


def check_md5(path: Path, expected: str) -> None:
    """Refuse a file whose md5 is not ``expected``.

    Raises:
        DataError: it is another, or cannot be read.
    """
    try:
        with open_regular(path) as file:
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
        kind: ``cifar_kinds.CIFAR10`` or ``CIFAR100``.
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
