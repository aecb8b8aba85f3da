"""A data set by its name or path."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from ..progress import Progress
from .datasets import CIFAR10, CIFAR100, FOLDER, WANTED, cifar, fashion_mnist, sample
from .errors import DataError
from .image_folder import image_folder
from .places import VARIABLE
from .source import Source

NAMES = ("sample", "fashion-mnist", "cifar10", "cifar100")


def load(
    name: str | Path,
    *,
    folder: str | Path | None = None,
    download: bool = False,
    limit: int | None = None,
    channels: int | None = None,
    resize: int | None = None,
    test_fraction: float | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Source:
    """The data set called ``name``.

    Args:
        name: 'sample', 'fashion-mnist', 'cifar10', 'cifar100', or the path of an image folder or zip; a relative
            one that is not here is looked for in ``$EASYBN_DATA`` too.
        folder: where the files of a named data set are; the only place that is then looked into. By
            default ``$EASYBN_DATA``, the cache folder, and where the system keeps it.
        download: fetch a named data set that is not found.
        limit: take only so many training images, every class in proportion.
        channels: of an image folder: 3 (the default: RGB) or 1 (grey).
        resize: of an image folder: the height and width to bring all images to.
        test_fraction: of an image folder without test images: the share to draw as such.
        cache: keep the decoded images, so that the next opening takes no time.
        progress: told how far the work is; by default a bar on the terminal.

    Raises:
        DataError: an unknown name, an option that does not apply, or data that is missing or damaged.
    """
    name = str(name)
    if name in NAMES:
        given = {"channels": channels, "resize": resize, "test_fraction": test_fraction}
        if wrong := [option for option, value in given.items() if value is not None]:
            raise DataError(f"{wrong[0]} is for image folders and does not apply to {name!r}: leave it out")
    elif folder is not None and _is_path(name):
        raise DataError(f"folder is for named data sets and does not apply to the path {name!r}: leave it out")
    if name == "sample":
        source = sample()
    elif name == "fashion-mnist":
        source = fashion_mnist(folder, download=download, cache=cache, progress=progress)
    elif name in NAMES:
        kind = CIFAR10 if name == "cifar10" else CIFAR100
        source = cifar(kind, folder, download=download, cache=cache, progress=progress)
    elif _is_path(name):
        source = image_folder(
            _placed(name),
            channels=3 if channels is None else channels,
            resize=resize,
            test_fraction=test_fraction,
            cache=cache,
            progress=progress,
        )
    else:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), NAMES, 1, 0.5)
        meant = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(NAMES)
        raise DataError(f"unknown data set {name!r}: {meant}known are {known}, and the path of an image folder or zip")
    return source if limit is None else source.part(limit)


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.lower().endswith(".zip") or Path(name).expanduser().exists()


def _placed(name: str) -> str | Path:
    """A relative path as it is if it is there, or else below ``$EASYBN_DATA``."""
    root = os.environ.get(VARIABLE, "")
    below = Path(root).expanduser() / name
    return below if root and not Path(name).expanduser().exists() and below.exists() else name


@dataclass(frozen=True)
class Status:
    """Whether a known data set is there.

    Args:
        name: what :func:`load` calls it.
        looked: the folders that were looked into, first to last.
        found: the files, or None.
        advice: what to do if it was not found; empty if it was.
    """

    name: str
    looked: tuple[Path, ...]
    found: tuple[Path, ...] | None
    advice: str


def available() -> list[Status]:
    """The known data sets, in the order of ``NAMES``; nothing is opened or verified."""
    rows = [Status("sample", (FOLDER,), tuple(sorted(FOLDER.glob("*.gz"))), "")]
    for name, wanted in zip(NAMES[1:], (WANTED, CIFAR10.wanted(), CIFAR100.wanted()), strict=True):
        found = wanted.find()
        rows.append(Status(name, tuple(wanted.roots()), found, "" if found else wanted.advice()))
    return rows
