"""A folder of images, or a zip of one, with one folder per class."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..progress import OnProgress, shown
from .cache import Part, Undecoded, cached, origin_of
from .file_tree import Tree, check_link, open_tree
from .listing import Files, Listing, list_images
from .pictures import decode_picture, picture_size
from .source import Source
from .split import DataError, draw, printable

_CHUNK = 256  # images decoded at a time
_USUAL_SIZE = 224  # pixels: the most that pictures of several sizes are brought to unless a size is asked for

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def image_folder(
    path: str | Path,
    *,
    channels: int = 3,
    resize: int | None = None,
    test_fraction: float | None = None,
    name: str | None = None,
    cache: bool = True,
    progress: OnProgress | None = None,
) -> Source:
    """The images below ``path``, classes in alphabetical order.

    What was done to the pictures, and which files were not read, is in the ``notes`` of the result.

    Args:
        path: a folder or a zip file of CLASS/IMAGE, or of train/CLASS/IMAGE and test/CLASS/IMAGE (or
            val/). Folders around all that do not matter. If there is only test/ (or val/), or only CLASS/ and
            no ``test_fraction``, all images are test images: such a data set can only be evaluated on.
        channels: 3 for RGB, whatever the files are, or 1 for grey.
        resize: the height and width to bring all images to: the shorter side is brought to that length, and the
            middle of the longer one kept. None to leave them as they are if all have one size, else for the most
            frequent length of the shorter side, at most 224.
        test_fraction: the share of each class, between 0 and 1, that is drawn as the test split where
            there are only class folders, or only train/; always the same samples for the same files.
        name: what results call it; by default the file's name without its suffix. CIFAR-10 as JPEG files
            is called cifar10-jpeg, for its pixels are not quite CIFAR-10's.
        cache: keep the decoded images, so that the next opening takes no time.
        progress: called as ``progress(done, total, what)``; by default a bar on the terminal.

    Raises:
        DataError: no such folder, no images, an unreadable one, a class without images, no test split.
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
        with open_tree(path) as tree, shown(progress) as show:
            listing = _with_test(list_images(tree.names(), str(path), tree.folders()), test_fraction, path)
            assert listing.test is not None
            first = [*listing.train, *listing.test][0][0]
            notes, size = [*tree.notes(), *listing.notes], resize
            if size is None and (size := _common_size(tree, path, [*listing.train, *listing.test], show, notes)):
                notes.append(f"all are brought to {size} x {size}: the shorter side, then the middle of the longer one")
            shape = decode_picture(tree.read(first), f"{path}: {first}", channels, size).shape
        changes: Counter[str] = Counter()
        train, test = (
            _part(path, files, first, shape, channels, size, changes) for files in (listing.train, listing.test)
        )

        def every_note() -> tuple[str, ...]:
            return (*notes, *(f"{change}: {changes[change]:,}" for change in sorted(changes) if changes[change]))

        return Undecoded(name or _name(path, listing, shape), listing.classes, shape, train, test, every_note)

    return cached("images", origin, prepare, cache=cache, progress=progress)


def _status(path: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """(path, status) of every file and (path, None) of every folder, in a fixed order: they show any change."""
    try:
        if not path.is_dir():
            yield str(path), path.stat()
            return
        pending = [str(path)]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir():
                        if entry.is_symlink():
                            check_link(Path(entry.path), path)
                        pending.append(entry.path)
                        yield entry.path, None
                    else:
                        yield entry.path, entry.stat()
    except FileNotFoundError as error:
        if error.filename == str(path):
            raise DataError(f"{path}: there is no such folder or zip file") from None
        raise DataError(f"{error.filename}: is a broken link: repair or remove it") from None
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None


def _with_test(listing: Listing, fraction: float | None, path: Path) -> Listing:
    if listing.test is not None:
        if fraction is not None:
            advice = "leave out test_fraction" if listing.train else "rename it to train/ to draw a part of it as test"
            raise DataError(f"{path}: has a test split of its own: {advice}")
        return listing
    files = listing.train
    if fraction is None and listing.flat:
        return Listing(listing.classes, [], files, listing.notes)
    if fraction is None:
        advice = "draw a test split by --test_fraction 0.2 (in Python test_fraction=0.2)"
        raise DataError(f"{path}: has no test/ or val/ folder: add one, or {advice}")
    held = round(fraction * len(files))
    if not 0 < held < len(files):
        raise DataError(f"{path}: a test_fraction of {fraction:g} of {len(files)} images leaves one split empty")
    kept, drawn = draw(torch.tensor([label for _, label in files]), held, 0, "test split", proportional=True)
    train, test = ([files[i] for i in rows.tolist()] for rows in (kept, drawn))
    return Listing(listing.classes, train, test, listing.notes)


def _common_size(tree: Tree, path: Path, files: Files, show: OnProgress, notes: list[str]) -> int | None:
    """None if all pictures have one size; else the size to bring them to, and a note of it."""
    sizes: Counter[tuple[int, int]] = Counter()
    for done, (name, _) in enumerate(files, 1):
        with tree.open(name) as file:
            sizes[picture_size(file, f"{path}: {name}")] += 1
        if done % _CHUNK == 0 or done == len(files):
            show(done, len(files), f"{path.stem}: sizes")
    if len(sizes) == 1:
        return None
    shorter: Counter[int] = Counter()
    for size, count in sizes.items():
        shorter[min(size)] += count
    smallest, largest = (f"{width} x {height}" for width, height in (min(sizes), max(sizes)))
    notes.append(f"pictures of {len(sizes):,} sizes, {smallest} to {largest} (width x height)")
    return min(_USUAL_SIZE, min(shorter, key=lambda length: (-shorter[length], length)))


def _part(
    path: Path,
    files: Files,
    first: str,
    shape: tuple[int, int, int],
    channels: int,
    resize: int | None,
    changes: Counter[str],
) -> Part:
    def chunks() -> Iterator[NDArray[np.uint8]]:
        with open_tree(path) as tree:
            for start in range(0, len(files), _CHUNK):
                names = [name for name, _ in files[start : start + _CHUNK]]
                images = np.empty((len(names), *shape), np.uint8)
                for position, name in enumerate(names):
                    image = decode_picture(tree.read(name), f"{path}: {name}", channels, resize, changes)
                    if image.shape != shape:
                        sizes = f"{_size(image.shape)}, but {first} has {_size(shape)} pixels"
                        advice = "bring all to one size by --resize N (in Python resize=N)"
                        raise DataError(f"{path}: {name} has {sizes}: {advice}")
                    images[position] = image
                yield images

    return Part(np.array([label for _, label in files], np.int64), chunks)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"


def _name(path: Path, listing: Listing, shape: tuple[int, int, int]) -> str:
    files = [*listing.train, *(listing.test or [])]
    is_cifar10 = listing.classes == CIFAR10_CLASSES and shape[1:] == (32, 32) and len(files) == 60_000
    if is_cifar10 and all(name.lower().endswith((".jpg", ".jpeg")) for name, _ in files):
        return "cifar10-jpeg"
    return printable(path.stem)
