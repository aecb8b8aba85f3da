"""The sample inside the package: 6,000 real Fashion-MNIST images, so that everything runs at once, offline.

The first 500 images of each class of the training set and the first 100 of each class of the test set,
in their original order. It is for tests and first steps; results come from the whole data set.
"""

import hashlib
import tarfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..files import check_regular, open_regular
from ..progress import Progress, showing
from .byte_pickle import load_byte_pickle
from .cache import Part, Undecoded, cached, origin_of
from .errors import DataError
from .fetch import fetch
from .idx import read_idx
from .places import Wanted, is_file
from .source import Source, Split

# What is published of CIFAR-10 and CIFAR-100: archives, their md5, their members, and how they tell labels.


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


# The official CIFAR archives, read in memory: nothing is extracted.
#
# The binary version stores records of one label byte (two for CIFAR-100: coarse, fine) and 3,072 pixel
# bytes, channel after channel, row after row. The python version stores the same pixels in pickles.

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (N, 3, 32, 32) and labels (N,)

_PIXELS = 3 * 32 * 32
_LARGEST = 2**29  # bytes of one member; the largest true one has 154 million


def read_members(archive: Path, names: Collection[str]) -> dict[str, bytes]:
    """The content of the members called ``names``, whatever else there is; paths serve as names only.

    Raises:
        DataError: a member is missing, not a plain file or far too large, or the archive is damaged.
    """
    found: dict[str, bytes] = {}
    try:
        check_regular(archive)
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name in names and member.isfile():
                    if member.size > _LARGEST:
                        raise DataError(f"{archive}: {member.name} has {member.size} bytes: not the original archive")
                    file = tar.extractfile(member)
                    found[member.name] = file.read() if file is not None else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive}: is no readable tar.gz archive ({error}): fetch it again") from None
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{archive}: has no {', '.join(missing)}: not the original archive")
    return found


def from_binary(data: bytes, label_bytes: int, name: str) -> Arrays:
    """The records of one file of the binary version; the last label byte counts."""
    size = label_bytes + _PIXELS
    if len(data) % size:
        raise DataError(f"{name}: {len(data)} bytes are no whole number of records of {size}")
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return images, records[:, label_bytes - 1].astype(np.int64)


def from_pickle(data: bytes, label_key: bytes, name: str) -> Arrays:
    """The images and labels of one file of the python version."""
    content = load_byte_pickle(data, name)
    try:
        pixels, labels = np.asarray(content[b"data"]), np.asarray(content[label_key], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name}: is no CIFAR batch ({error!r})") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS or labels.shape != pixels.shape[:1]:
        raise DataError(f"{name}: holds {pixels.dtype} {pixels.shape} and labels {labels.shape}: no CIFAR batch")
    return pixels.reshape(-1, 3, 32, 32), labels


def names_from_pickle(data: bytes, key: bytes, name: str) -> tuple[str, ...]:
    """The class names in the meta file of the python version."""
    try:
        return tuple(word.decode("ascii") for word in load_byte_pickle(data, name)[key])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: holds no class names ({error!r})") from None


# CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 colour images, 32 x 32, 10 or 100 classes.
#
# Either official archive serves, the binary or the python version: they hold the same pixels. Its md5, as
# published with it, is verified before it is opened.

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


def _cifar_prepare(kind: Cifar, path: Path) -> Undecoded:
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
    return cached(kind.name, origin, lambda: _cifar_prepare(kind, path), cache=cache, progress=progress)


# Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017): 60,000 + 10,000 grey images of clothes, 28 x 28, ten classes.

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# sha256 of the decoded values: the same whichever way the files were compressed
SHA256 = {
    "train-images-idx3-ubyte": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train-labels-idx1-ubyte": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "t10k-images-idx3-ubyte": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "t10k-labels-idx1-ubyte": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}

ADDRESSES = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)


def file_of(folder: Path, stem: str) -> Path | None:
    """The file called ``stem`` in ``folder``, compressed or plain, if there is one."""
    return next((folder / name for name in (f"{stem}.gz", stem) if is_file(folder / name)), None)


def _here(folder: Path) -> tuple[Path, ...] | None:
    found = [path for stem in SHA256 if (path := file_of(folder, stem)) is not None]
    return tuple(found) if len(found) == len(SHA256) else None


WANTED = Wanted(
    "Fashion-MNIST",
    files=tuple(f"{stem}.gz" for stem in SHA256),
    subfolders=("fashion-mnist", "FashionMNIST/raw"),  # the second is torchvision's
    here=_here,
    extra=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
)


def read_verified(path: Path, stem: str) -> NDArray[np.uint8]:
    """The array in ``path``, which must be the data set's ``stem``.

    Raises:
        DataError: it is damaged or another.
    """
    array = read_idx(path, 3 if "images" in stem else 1)
    digest = hashlib.sha256(array.data).hexdigest()
    if digest != SHA256[stem]:
        found = f"sha256 of the decoded values is {digest[:16]}..., expected {SHA256[stem][:16]}..."
        raise DataError(f"{path}: is not Fashion-MNIST's {stem} ({found}): replace it by the original file")
    return array


def _fashion_mnist_prepare(files: tuple[Path, ...]) -> Undecoded:
    arrays = [read_verified(path, stem) for path, stem in zip(files, SHA256, strict=True)]
    train, test = (Part.of_array(arrays[i][:, None], arrays[i + 1].astype(np.int64)) for i in (0, 2))
    return Undecoded("fashion-mnist", CLASSES, (1, 28, 28), train, test)


def fashion_mnist(
    folder: str | Path | None = None,
    *,
    download: bool = False,
    cache: bool = True,
    progress: Progress | None = None,
) -> Source:
    """The whole data set, verified by sha256 of the decoded values.

    Args:
        folder: where the four files are, or the folder above; then no other place is looked into. By
            default these, in turn: ``$EASYBN_DATA``, the cache folder, Debian's package folder.
        download: fetch what is not found, into ``folder`` or the cache folder.
        cache: keep the decoded images, so that the next opening takes no time.
        progress: told how far the work is; by default a bar on the terminal.

    Raises:
        DataError: not found, not to be had, damaged, or not the original.
    """
    files = WANTED.find(folder)
    if files is None and download:
        home = WANTED.home(folder)
        with showing(progress) as show:
            for stem in SHA256:
                if file_of(home, stem) is None:
                    urls = [f"{address}{stem}.gz" for address in ADDRESSES]
                    fetch(urls, home / f"{stem}.gz", partial(read_verified, stem=stem), show)
        files = _here(home)
    if files is None:
        raise DataError(WANTED.advice(folder))
    found = tuple(files)
    origin = origin_of(((str(path.resolve()), path.stat()) for path in found), kind="fashion-mnist")
    return cached("fashion-mnist", origin, lambda: _fashion_mnist_prepare(found), cache=cache, progress=progress)


FOLDER = Path(__file__).parent / "fashion_mnist_sample"


def _split(kind: str) -> Split:
    images = torch.from_numpy(read_idx(FOLDER / f"{kind}-images-idx3-ubyte.gz", 3))
    labels = torch.from_numpy(read_idx(FOLDER / f"{kind}-labels-idx1-ubyte.gz", 1))
    return Split(images[:, None], labels.long())


def sample() -> Source:
    """5,000 training and 1,000 test images, (1, 28, 28), ten balanced classes."""
    return Source.from_splits("sample", CLASSES, _split("train"), _split("t10k"))
