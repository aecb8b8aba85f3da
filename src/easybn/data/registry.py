"""A data set by its name, its path, or the function that makes it; and the table of all names."""

import difflib
import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..progress import OnProgress, shown
from ..user_code import call, is_permitted, is_user_code, load_object
from .datasets import VARIABLE, Archive, MedMnist, Mnist, Published, Svhn
from .image_folder import image_folder
from .source import Source
from .split import DataError, Split

SAMPLE = Path(__file__).parent / "fashion_mnist_sample"


def _idx(prefix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}{kind}-ubyte.gz" for kind in
                 ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"))  # fmt: skip


_FASHION_MNIST_CONTENTS = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
FASHION_MNIST = Mnist(
    "fashion-mnist", "Fashion-MNIST", "FashionMNIST", _idx(), ("fashion-mnist", "FashionMNIST/raw"),
    (1, 28, 28), 10, 60_000, 10_000, "Fashion-MNIST is copyright 2017 Zalando SE, under the MIT licence.",
    extra=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
    contents=dict(zip(_idx(), _FASHION_MNIST_CONTENTS, strict=True)),
    mirrors=("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
)  # fmt: skip
_MEDICAL = (  # channels, classes, training and test images, licence
    ("PathMNIST", 3, 9, 89_996, 7_180, "CC BY 4.0"), ("DermaMNIST", 3, 7, 7_007, 2_005, "CC BY-NC 4.0"),
    ("OCTMNIST", 1, 4, 97_477, 1_000, "CC BY 4.0"), ("PneumoniaMNIST", 1, 2, 4_708, 624, "CC BY 4.0"),
    ("RetinaMNIST", 3, 5, 1_080, 400, "CC BY 4.0"), ("BreastMNIST", 1, 2, 546, 156, "CC BY 4.0"),
    ("BloodMNIST", 3, 8, 11_959, 3_421, "CC BY 4.0"), ("TissueMNIST", 1, 8, 165_466, 47_280, "CC BY 4.0"),
    ("OrganAMNIST", 1, 11, 34_561, 17_778, "CC BY 4.0"), ("OrganCMNIST", 1, 11, 12_975, 8_216, "CC BY 4.0"),
    ("OrganSMNIST", 1, 11, 13_932, 8_827, "CC BY 4.0"),
)  # fmt: skip

PUBLISHED: dict[str, Published] = {data.name: data for data in (
    FASHION_MNIST,
    Archive("cifar10", "CIFAR-10", "CIFAR10", ("cifar-10-python.tar.gz",), ("cifar10", "CIFAR-10"), (3, 32, 32), 10,
            50_000, 10_000, "CIFAR-10 states no licence; its authors ask to cite Krizhevsky (2009)."),
    Archive("cifar100", "CIFAR-100", "CIFAR100", ("cifar-100-python.tar.gz",), ("cifar100", "CIFAR-100"), (3, 32, 32),
            100, 50_000, 10_000, "CIFAR-100 states no licence; its authors ask to cite Krizhevsky (2009)."),
    Mnist("mnist", "MNIST", "MNIST", _idx(), ("mnist", "MNIST/raw"), (1, 28, 28), 10, 60_000, 10_000,
          "MNIST is by Yann LeCun and Corinna Cortes, under CC BY-SA 3.0."),
    Mnist("kmnist", "Kuzushiji-MNIST", "KMNIST", _idx(), ("kmnist", "KMNIST/raw"), (1, 28, 28), 10, 60_000, 10_000,
          "Kuzushiji-MNIST is by ROIS-DS Center for Open Data in the Humanities, under CC BY-SA 4.0."),
    Svhn("svhn", "SVHN", "SVHN", ("train_32x32.mat", "test_32x32.mat"), ("svhn", "SVHN"), (3, 32, 32), 10, 73_257,
         26_032, "SVHN (Netzer et al., 2011) is for non-commercial use only."),
    Archive("stl10", "STL-10", "STL10", ("stl10_binary.tar.gz",), ("stl10", "STL-10"), (3, 96, 96), 10, 5_000, 8_000,
            "STL-10 states no licence of its own; its images are from ImageNet."),
    *(MedMnist(title.lower(), title, title.lower(), (f"{title.lower()}.npz",), ("medmnist",), (channels, 28, 28),
               classes, train, test, f"{title} of MedMNIST v2 is under {licence}.")
      for title, channels, classes, train, test, licence in _MEDICAL),
)}  # fmt: skip
"""Every data set that is found by name, but for the bundled sample."""


def sample() -> Source:
    """5,000 training and 1,000 test images of Fashion-MNIST, (1, 28, 28), ten balanced classes, in the package.

    They are the first 500 images of each class of the training set and the first 100 of each class of the test set, in
    their original order: for tests and first steps. Results come from the complete data set.
    """

    def split(kind: str) -> Split:
        images = _bundled(f"{kind}-images-idx3-ubyte.gz", header=16).reshape(-1, 1, 28, 28)
        return Split(images, _bundled(f"{kind}-labels-idx1-ubyte.gz", header=8).long())

    return Source.from_splits("sample", CLASSES, split("train"), split("t10k"))


CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)  # of the sample


def _bundled(name: str, header: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(gzip.decompress((SAMPLE / name).read_bytes())), dtype=torch.uint8, offset=header)


NAMES = ("sample", *PUBLISHED)


def load(
    data: str | Path | Source | Callable[[], Any],
    *,
    folder: str | Path | None = None,
    download: bool = False,
    limit: int | None = None,
    channels: int | None = None,
    resize: int | None = None,
    test_fraction: float | None = None,
    cache: bool = True,
    progress: OnProgress | None = None,
) -> Source:
    """A data set by its name or path, or made by a function.

    Args:
        data: one of ``NAMES``; or the path of an image folder or zip (a relative one that is not here is searched for
            in ``$EASYBN_DATA`` too); or a function that returns a :class:`.Source`, or what :func:`as_source` makes
            one of. A function may be named, as ``my.py:make`` or ``module:make``, if the command line of this call
            names it too.
        folder: where the files of a named data set are; the only place that is then searched. By default
            ``$EASYBN_DATA``, the cache folder, and where the system keeps it.
        download: get a named data set that is not found.
        limit: take only so many training images, every class in proportion.
        channels: of an image folder: 3 (the default: RGB) or 1 (grey).
        resize: of an image folder: the height and width to bring all images to.
        test_fraction: of an image folder without test images: the share to draw as such.
        cache: keep the decoded images, so that the next call takes no time.
        progress: called as the work advances; by default a bar on the terminal.

    Raises:
        DataError: an unknown name, an option that does not apply, or data that is missing or damaged.
        ValueError: code that cannot be imported or that fails.
    """
    made = isinstance(data, Source) or callable(data)
    name = "" if made else str(data)
    of_code = made or (is_user_code(name) and not Path(name).exists())
    if of_code or name in NAMES:
        given: dict[str, Any] = {"channels": channels, "resize": resize, "test_fraction": test_fraction}
        given |= {"folder": folder} if of_code else {}
        if wrong := [option for option, value in given.items() if value is not None]:
            kind = "named data sets" if wrong[0] == "folder" else "image folders"
            raise DataError(f"{wrong[0]} is for {kind} and does not apply to {name or 'code'!r}: leave it out")
    elif folder is not None and _is_path(name):
        raise DataError(f"folder is for named data sets and does not apply to the path {name!r}: leave it out")
    if isinstance(data, Source):
        source = data
    elif callable(data):
        source = as_source(data(), getattr(data, "__name__", type(data).__name__), progress)
    elif of_code:
        source = _made_by(name, progress)
    elif name == "sample":
        source = sample()
    elif name in PUBLISHED:
        source = PUBLISHED[name].load(folder, download=download, cache=cache, progress=progress)
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
        known = f"{', '.join(NAMES)}, the path of an image folder or zip, and my.py:make"
        raise DataError(f"unknown data set {name!r}: {meant}known are {known}")
    return source if limit is None else source.part(limit)


def as_source(made: Any, name: str, progress: OnProgress | None = None) -> Source:
    """What a user's function returned, as a :class:`.Source`.

    Args:
        made: a ``Source``; or (train, test), each a data set as torchvision's are, with items (image, label), or a
            pair of arrays or tensors (images, labels); see :meth:`.Source.from_datasets`.
        name: what results call it, unless it is a ``Source`` with a name of its own.
        progress: called as images are read; by default a bar on the terminal.

    Raises:
        DataError: anything else.
    """
    if isinstance(made, Source):
        return made
    if not isinstance(made, tuple | list) or len(made) != 2:
        found = f"{len(made)} values" if isinstance(made, tuple | list) else f"a {type(made).__name__}"
        raise DataError(f"{name}: returned {found}, expected an easybn.data.Source or (train, test)")
    with shown(progress) as show:
        return Source.from_datasets(*made, name=name, progress=show)


def _made_by(name: str, progress: OnProgress | None) -> Source:
    """The data set that a function returns which the command line of this call names."""
    if not is_permitted(name):
        raise DataError(
            f"the data set is made by code, {name}, and a stored name runs no code: repeat it on the command line, "
            f"--data {name} (in Python pass the function)"
        )
    where = Path(name.rpartition(":")[0]).stem
    return as_source(call(load_object(name, "--data"), name, "--data"), where, progress)


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
        about: its authors' name for it, and its size.
        looked: the folders that were searched, first to last.
        found: the files, or None.
        advice: what to do if it was not found; empty if it was.
    """

    name: str
    about: str
    looked: tuple[Path, ...]
    found: tuple[Path, ...] | None
    advice: str


def available() -> list[Status]:
    """The known data sets, in the order of ``NAMES``; nothing is opened or verified."""
    files = tuple(sorted(SAMPLE.glob("*.gz")))
    rows = [Status("sample", "6,000 images of Fashion-MNIST", (SAMPLE,), files, "")]
    for name, data in PUBLISHED.items():
        found = data.find()
        size = f"{data.train:,} + {data.test:,} images, {' x '.join(map(str, data.shape))}, {data.classes} classes"
        advice = "" if found else data.advice()
        rows.append(Status(name, f"{data.title}: {size}", tuple(data.roots()), found, advice))
    return rows


def licence(name: str) -> str | None:
    """One sentence about the terms of a known data set, for whoever passes on a model trained on it; else None."""
    known = PUBLISHED.get("fashion-mnist" if name == "sample" else name)
    return None if known is None else known.licence
