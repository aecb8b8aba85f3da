"""Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017): 60,000 + 10,000 grey images of clothes, 28 x 28, ten classes."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .cache import cached, origin_of
from .decoded import Part, Undecoded
from .errors import DataError
from .fetch import fetch
from .idx import read_idx
from .places import Wanted, is_file
from .progress import Progress, showing
from .source import Source

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


def _prepare(files: tuple[Path, ...]) -> Undecoded:
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
    return cached("fashion-mnist", origin, lambda: _prepare(found), cache=cache, progress=progress)
