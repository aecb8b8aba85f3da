"""A data set decoded once, into memory-mapped arrays that open at once from then on.

``<cache>/decoded/<kind>-<digest>/`` holds train_images.npy, train_labels.npy, test_images.npy, test_labels.npy and
source.json (name, classes, shape, statistics, notes, origin, checksums). The digest names the original files, so that
changed files are decoded again. The folder is written aside and renamed when it is complete.

The checksums are verified when the data set is opened: up to 1 GiB always (about 0.3 s per GiB), above that when the
size, time or inode of a file has changed, or once a week (checked.json says when). What is damaged is decoded again.
"""

import errno
import hashlib
import json
import mmap
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import discard, new_folder, sync
from ..json_files import Damaged, read_json, with_checksum, write_json
from ..progress import OnProgress, shown
from .source import Source, Split
from .split import DataError, from_histogram, histogram


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/easybn``, or ``~/.cache/easybn``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG base directory specification: a relative path is to be ignored
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "easybn"


@dataclass(frozen=True)
class Part:
    """A split yet to be decoded.

    Args:
        labels: int64 array of shape (N,).
        chunks: gives the images in order, as uint8 arrays of shape (n, C, H, W), N images in all.
    """

    labels: NDArray[np.int64]
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]

    @classmethod
    def of_array(cls, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> "Part":
        """A split that is in memory already: images (N, C, H, W), labels (N,)."""
        return cls(labels, lambda: (images[start : start + 4096] for start in range(0, len(images), 4096)))


@dataclass(frozen=True)
class Undecoded:
    """A data set yet to be decoded: its images have the shape (C, H, W).

    ``notes`` gives those of the :class:`Source`; it is called once everything is decoded.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Part
    test: Part
    notes: Callable[[], tuple[str, ...]] = tuple

    def parts(self) -> Iterator[tuple[str, Part]]:
        yield "train", self.train
        yield "test", self.test


def decode(
    part: Part, shape: tuple[int, int, int], write: Callable[[Any], object], what: str, show: OnProgress
) -> Tensor:
    """Pass every chunk to ``write``, in order, and report progress to ``show``.

    Returns:
        (C, 256) int64, the histogram of each channel.

    Raises:
        DataError: fewer or more images than labels, or an image of another shape.
    """
    count, done = torch.zeros(shape[0], 256, dtype=torch.int64), 0
    for chunk in part.chunks():
        chunk = np.ascontiguousarray(chunk)
        if chunk.shape[1:] != shape:
            raise DataError(f"{what}: an image has shape {chunk.shape[1:]} where {shape} was expected")
        write(chunk)
        count += histogram(torch.from_numpy(chunk))
        done += len(chunk)
        show(done, len(part.labels), what)
    if done != len(part.labels):
        raise DataError(f"{what}: every image needs one label, got {done} images and {len(part.labels)} labels")
    return count


def in_memory(data: Undecoded, show: OnProgress) -> Source:
    """Decode everything into memory."""
    splits, counts = {}, {}
    for kind, part in data.parts():
        chunks = [np.empty((0, *data.shape), np.uint8)]
        counts[kind] = decode(part, data.shape, chunks.append, f"{data.name}: {kind}", show)
        splits[kind] = Split(torch.from_numpy(np.concatenate(chunks)), torch.from_numpy(part.labels))
    mean, std = from_histogram(counts["train"]) if len(splits["train"]) else ((), ())
    return Source(data.name, data.classes, splits["train"], splits["test"], mean, std, data.notes())


_FORMAT = 2  # raised whenever pictures are decoded by another rule, so that no array of the old one is served
_ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")
_CHECKED = "checked.json"
_SMALL = 2**30  # bytes in all that are verified whenever they are opened
_WEEK = 7 * 24 * 3600  # seconds


def origin_of(files: Iterable[tuple[str, os.stat_result | None]], **options: object) -> str:
    """A digest of files (path, status) by path, size and time of change, and of how they are decoded.

    Folders, whose status is None, count by their paths.
    """
    digest = hashlib.sha256(json.dumps([_FORMAT, options], sort_keys=True).encode())
    for path, status in files:
        state = "folder" if status is None else f"{status.st_size}\0{status.st_mtime_ns}"
        digest.update(f"\0{path}\0{state}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def cached(
    kind: str, origin: str, prepare: Callable[[], Undecoded], *, cache: bool = True, progress: OnProgress | None = None
) -> Source:
    """The data set from the cache, decoded into it first if it is not there.

    Args:
        kind: how the folder's name starts.
        origin: the digest of :func:`origin_of`.
        prepare: called only if something is to be decoded.
        cache: whether to use the cache at all; without it everything is decoded into memory.
        progress: called as the decoding advances; by default a bar on the terminal.
    """
    folder = cache_folder() / "decoded" / f"{kind}-{origin[:32]}"
    try:
        if cache and (source := _open(folder, origin)) is not None:
            return source
    except OSError as error:
        warnings.warn(f"{error}: decoding into memory", stacklevel=2)
        cache = False
    data = prepare()
    with shown(progress) as show:
        if cache:
            try:
                _write(folder, origin, data, show)
                if (source := _open(folder, origin)) is not None:
                    return source
            except OSError as error:
                warnings.warn(f"{folder}: cannot be written ({error}): decoding into memory", stacklevel=2)
        return in_memory(data, show)


def _open(folder: Path, origin: str) -> Source | None:
    """The data set in ``folder``; None if there is none, or if it is damaged (it is then removed).

    Raises:
        OSError: it is damaged, and cannot be removed.
    """
    if not folder.is_dir():
        return None
    try:
        about: dict[str, Any] = read_json(folder / "source.json")
        if about["origin"] != origin:
            raise ValueError("another origin")
        _check(folder, about["checksums"])
        splits = {kind: _open_split(folder, kind, about) for kind in ("train", "test")}
        classes, mean, std, notes = (tuple(about[name]) for name in ("classes", "mean", "std", "notes"))
        return Source(about["name"], classes, splits["train"], splits["test"], mean, std, notes)
    except PermissionError:
        return None  # someone else's: neither to be used nor to be removed
    except (OSError, ValueError, KeyError, TypeError):
        discard(folder, {*_ARRAYS, "source.json", _CHECKED})
        return None


def _check(folder: Path, checksums: dict[str, int]) -> None:
    """Raise Damaged if an array is not what was written, see the module."""
    stats = {name: (folder / name).stat() for name in _ARRAYS}
    large = sum(stat.st_size for stat in stats.values()) > _SMALL
    files = {name: [stat.st_ino, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    if large:
        with suppress(OSError, ValueError, KeyError, TypeError):  # never yet
            known = read_json(folder / _CHECKED)
            if known["files"] == files and 0 <= time.time() - known["time"] < _WEEK:
                return
    for name in _ARRAYS:
        with (folder / name).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if zlib.crc32(content) != checksums[name]:
                raise Damaged(f"{folder / name} is damaged: its checksum is another one")
    if large:
        with suppress(OSError):  # a folder of another user: verified again the next time
            write_json(folder / _CHECKED, {"files": files, "time": time.time()}, indent=None)


def _open_split(folder: Path, kind: str, about: dict[str, Any]) -> Split:
    images = map_array(folder / f"{kind}_images.npy")
    labels = np.load(folder / f"{kind}_labels.npy", allow_pickle=False)
    if images.shape != (about[kind], *about["shape"]):
        raise ValueError(f"{kind}: {tuple(images.shape)} images, written were {about[kind]}")
    return Split(images, torch.from_numpy(labels))


def map_array(path: Path) -> Tensor:
    """The array in an .npy file, mapped: a page is read when it is touched. Writing changes no file."""
    try:
        # a private map: torch is given memory that it may write to
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        # what may be written to counts as used, and more than the machine has is refused: map to read only
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return torch.from_numpy(np.load(path, mmap_mode="r", allow_pickle=False))


def _write(folder: Path, origin: str, data: Undecoded, show: OnProgress) -> None:
    about: dict[str, Any] = {"origin": origin, "name": data.name, "classes": data.classes, "shape": data.shape}
    about["checksums"] = checksums = {}
    with new_folder(folder) as part:
        for kind, split in data.parts():
            # written in order rather than through a map, so that a full disk is an error and no crash
            with (part / f"{kind}_images.npy").open("wb") as file:
                summed = _ChecksummedFile(file)
                _header(summed, (len(split.labels), *data.shape))
                count = decode(split, data.shape, summed.write, f"{data.name}: {kind}", show)
                sync(file)
            checksums[f"{kind}_images.npy"] = summed.crc
            with (part / f"{kind}_labels.npy").open("wb") as file:
                summed = _ChecksummedFile(file)
                np.save(summed, split.labels)
                sync(file)
            checksums[f"{kind}_labels.npy"] = summed.crc
            about[kind] = len(split.labels)
            if kind == "train":
                about["mean"], about["std"] = from_histogram(count) if len(split.labels) else ((), ())
        about["notes"] = data.notes()
        with (part / "source.json").open("wb") as file:
            file.write(json.dumps(with_checksum(about), indent=1).encode())
            sync(file)


@dataclass
class _ChecksummedFile:
    """A file to write to; ``crc`` is the CRC-32 of what was written."""

    file: IO[bytes]
    crc: int = 0

    def write(self, data: Any) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self.file.write(data)


def _header(file: _ChecksummedFile, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
