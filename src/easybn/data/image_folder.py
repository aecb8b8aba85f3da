"""Any folder of images, or a zip of one, in which each class has a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .cache import cached, origin_of
from .decoded import Part, Undecoded
from .errors import DataError
from .holdout import draw
from .listing import Files, Listing, list_images
from .picture import decode_picture
from .progress import Progress
from .source import Source
from .tree import open_tree

_CHUNK = 256  # images decoded at a time

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def image_folder(
    path: str | Path,
    *,
    channels: int = 3,
    resize: int | None = None,
    test_fraction: float | None = None,
    name: str | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Source:
    """The images below ``path``, classes in alphabetical order.

    Args:
        path: a folder or a zip file of CLASS/IMAGE, or of train/CLASS/IMAGE and test/CLASS/IMAGE (or
            val/). One or more folders around all that do not matter.
        channels: 3 for RGB, whatever the files are, or 1 for grey.
        resize: None if all images have one size, else the height and width to bring them to.
        test_fraction: the share of each class, between 0 and 1, that is drawn as the test split where
            there is no such folder; always the same samples for the same files.
        name: what results call it; by default the file's name without its suffix. CIFAR-10 as JPEG files
            is called cifar10-jpeg, for its pixels are not quite CIFAR-10's.
        cache: keep the decoded images, so that the next opening takes no time.
        progress: told how far the work is; by default a bar on the terminal.

    Raises:
        DataError: no such folder, no images, an unreadable one, sizes that differ, no test split.
    """
    path = Path(path).expanduser().absolute()
    if channels not in (1, 3):
        raise DataError(f"channels must be 3 (RGB) or 1 (grey), got {channels}")
    if resize is not None and resize < 1:
        raise DataError(f"resize must be at least 1 pixel, got {resize}")
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must be between 0 and 1, got {test_fraction}")
    options = {"channels": channels, "resize": resize, "test_fraction": test_fraction, "name": name}
    origin = origin_of(_status(path), kind="images", **options)

    def prepare() -> Undecoded:
        with open_tree(path) as tree:
            listing = _with_test(list_images(tree.names(), str(path)), test_fraction, path)
            first = listing.train[0][0]
            shape = decode_picture(tree.read(first), f"{path}: {first}", channels, resize).shape
        assert listing.test is not None
        train, test = (_part(path, files, first, shape, channels, resize) for files in (listing.train, listing.test))
        return Undecoded(name or _name(path, listing, shape), listing.classes, shape, train, test)

    return cached("images", origin, prepare, cache=cache, progress=progress)


def _status(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """What tells whether any file has changed: (path, status) of each, in a fixed order."""
    try:
        if not path.is_dir():
            yield str(path), path.stat()
            return
        pending = [str(path)]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir():
                        pending.append(entry.path)
                    else:
                        yield entry.path, entry.stat()
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: there is no such folder or zip file") from None
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None


def _with_test(listing: Listing, fraction: float | None, path: Path) -> Listing:
    if listing.test is not None:
        if fraction is not None:
            raise DataError(f"{path}: has a test split of its own: leave out test_fraction")
        return listing
    if fraction is None:
        raise DataError(f"{path}: has no test/ or val/ folder: add one, or draw a test split by test_fraction=0.2")
    files = listing.train
    held = round(fraction * len(files))
    if not 0 < held < len(files):
        raise DataError(f"{path}: a test_fraction of {fraction:g} of {len(files)} images leaves one split empty")
    kept, drawn = draw(torch.tensor([label for _, label in files]), held, 0, "test split", proportional=True)
    return Listing(listing.classes, [files[i] for i in kept.tolist()], [files[i] for i in drawn.tolist()])


def _part(path: Path, files: Files, first: str, shape: tuple[int, int, int], channels: int, resize: int | None) -> Part:
    def chunks() -> Iterator[NDArray[np.uint8]]:
        with open_tree(path) as tree:
            for start in range(0, len(files), _CHUNK):
                names = [name for name, _ in files[start : start + _CHUNK]]
                images = np.empty((len(names), *shape), np.uint8)
                for position, name in enumerate(names):
                    image = decode_picture(tree.read(name), f"{path}: {name}", channels, resize)
                    if image.shape != shape:
                        sizes = f"{_size(image.shape)}, but {first} has {_size(shape)}"
                        raise DataError(f"{path}: {name} has {sizes} pixels: bring all to one size by resize=...")
                    images[position] = image
                yield images

    return Part(np.array([label for _, label in files], np.int64), chunks)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"


def _name(path: Path, listing: Listing, shape: tuple[int, int, int]) -> str:
    files = [*listing.train, *(listing.test or [])]
    is_cifar10 = listing.classes == _CIFAR10 and shape[1:] == (32, 32) and len(files) == 60_000
    if is_cifar10 and all(name.lower().endswith((".jpg", ".jpeg")) for name, _ in files):
        return "cifar10-jpeg"
    return path.stem
