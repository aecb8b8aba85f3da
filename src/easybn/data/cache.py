"""A data set decoded once, into memory-mapped arrays that open at once ever after.

``<cache>/decoded/<kind>-<digest>/`` holds train_images.npy, train_labels.npy, test_images.npy,
test_labels.npy and source.json (name, classes, shape, statistics, origin). The digest names the original
files, so that changed files are decoded again. The folder is written aside and renamed when it is whole.
"""

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..files import discard, new_folder, sync
from .decoded import Undecoded, decode, in_memory
from .places import cache_folder
from .progress import Progress, showing
from .source import Source, Split
from .statistics import from_histogram

_FORMAT = 1


def origin_of(files: Iterable[tuple[str, os.stat_result]], **options: object) -> str:
    """A digest of files (path, status) by path, size and time of change, and of how they are decoded."""
    digest = hashlib.sha256(json.dumps([_FORMAT, options], sort_keys=True).encode())
    for path, status in files:
        digest.update(f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def cached(
    kind: str, origin: str, prepare: Callable[[], Undecoded], *, cache: bool = True, progress: Progress | None = None
) -> Source:
    """The data set from the cache, decoded into it first if it is not there.

    Args:
        kind: how the folder's name starts.
        origin: the digest of :func:`origin_of`.
        prepare: called only if something is to be decoded.
        cache: whether to use the cache at all; without it everything is decoded into memory.
        progress: told how far the decoding is; by default a bar on the terminal.
    """
    folder = cache_folder() / "decoded" / f"{kind}-{origin[:32]}"
    if cache and (source := _open(folder, origin)) is not None:
        return source
    data = prepare()
    with showing(progress) as show:
        if cache:
            try:
                _write(folder, origin, data, show)
                if (source := _open(folder, origin)) is not None:
                    return source
            except OSError as error:
                warnings.warn(f"{folder}: cannot be written ({error}): decoding into memory", stacklevel=2)
        return in_memory(data, show)


def _open(folder: Path, origin: str) -> Source | None:
    """The data set in ``folder``; None if there is none, or if someone damaged it (it is then removed)."""
    if not folder.is_dir():
        return None
    try:
        about: dict[str, Any] = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        if about["origin"] != origin:
            raise ValueError("another origin")
        splits = {kind: _open_split(folder, kind, about) for kind in ("train", "test")}
        statistics = tuple(about["mean"]), tuple(about["std"])
        return Source(about["name"], tuple(about["classes"]), splits["train"], splits["test"], *statistics)
    except PermissionError:
        return None  # someone else's: neither to be used nor to be removed
    except (OSError, ValueError, KeyError, TypeError):
        discard(folder)
        return None


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


def _write(folder: Path, origin: str, data: Undecoded, show: Progress) -> None:
    about: dict[str, object] = {"origin": origin, "name": data.name, "classes": data.classes, "shape": data.shape}
    with new_folder(folder) as part:
        for kind, split in data.parts():
            # written in order rather than through a map, so that a full disk is an error and no crash
            with (part / f"{kind}_images.npy").open("wb") as file:
                _header(file, (len(split.labels), *data.shape))
                count = decode(split, data.shape, file.write, f"{data.name}: {kind}", show)
                sync(file)
            with (part / f"{kind}_labels.npy").open("wb") as file:
                np.save(file, split.labels)
                sync(file)
            about[kind] = len(split.labels)
            if kind == "train":
                about["mean"], about["std"] = from_histogram(count)
        with (part / "source.json").open("wb") as file:
            file.write(json.dumps(about, indent=1).encode())
            sync(file)


def _header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
