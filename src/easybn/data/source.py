"""A data set as the rest of the package sees it: a training and a test split of labelled 8-bit images."""

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..progress import OnProgress, silent
from .split import DataError, Split, as_labels, as_pixels, channel_statistics, draw

__all__ = ["DataError", "Source", "Split"]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set.

    Args:
        name: what results call it.
        classes: the name of each label.
        train: for training; a validation split is held out of it.
        test: only ever evaluated on.
        mean: mean of each channel of the training images, in [0, 1].
        std: standard deviation of each channel of the training images, in [0, 1] units.
        notes: what a reader of results should know: what was done to the pictures, which files were not read.

    A data set of only test images has an empty ``train``, and no ``mean`` and ``std``.

    Raises:
        DataError: splits of unequal image shapes, no test image, a label without a class, or statistics that do not
            fit.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.train.shape != self.test.shape:
            shapes = f"{self.train.shape} for training and {self.test.shape} for test"
            raise DataError(f"{self.name}: images must have one shape, got {shapes}")
        if not len(self.test):
            raise DataError(f"{self.name}: there are no test images")
        for kind, split in (("training", self.train), ("test", self.test)):
            if len(split) and int(split.labels.max()) >= len(self.classes):
                found = f"a {kind} label is {int(split.labels.max())}"
                raise DataError(f"{self.name}: {found}, but there are {len(self.classes)} classes, numbered from 0")
        channels = self.train.shape[0] if len(self.train) else 0
        if len(self.mean) != channels or len(self.std) != channels:
            found = f"{len(self.mean)} and {len(self.std)}"
            raise DataError(f"{self.name}: mean and std need a number for each of {channels} channels, got {found}")
        if not all(0 < s <= 1 for s in self.std):
            advice = "a channel that is the same everywhere cannot be normalised: leave it out"
            raise DataError(f"{self.name}: every std must be in (0, 1], got {self.std}: {advice}")

    @classmethod
    def from_splits(
        cls, name: str, classes: Sequence[str], train: Split, test: Split, notes: Sequence[str] = ()
    ) -> "Source":
        """A source whose statistics are computed here, by reading all training images once."""
        mean, std = channel_statistics(train.images) if len(train) else ((), ())
        return cls(name, tuple(classes), train, test, mean, std, tuple(notes))

    @classmethod
    def from_tensors(
        cls,
        train_images: Tensor,
        train_labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        *,
        classes: Sequence[str] | None = None,
        name: str = "tensors",
    ) -> "Source":
        """A source made of tensors.

        Args:
            train_images: (N, C, H, W), uint8, or floating point in [0, 1] in whole multiples of 1/255.
            train_labels: (N,), whole numbers from 0.
            test_images: like ``train_images``.
            test_labels: like ``train_labels``.
            classes: the name of each label; by default its number.
            name: what results call it.

        Raises:
            DataError: tensors other than these; the message says what to do.
        """
        train = Split(as_pixels(train_images, "train_images"), as_labels(train_labels, "train_labels"))
        test = Split(as_pixels(test_images, "test_images"), as_labels(test_labels, "test_labels"))
        if classes is None:
            count = 1 + max((int(split.labels.max()) for split in (train, test) if len(split)), default=-1)
            classes = [str(label) for label in range(count)]
        return cls.from_splits(name, classes, train, test)

    @classmethod
    def from_datasets(
        cls,
        train: Any,
        test: Any,
        *,
        classes: Sequence[str] | None = None,
        name: str = "datasets",
        progress: OnProgress = silent,
    ) -> "Source":
        """A source of data sets as torchvision's are, or of arrays; all images are read into memory, as 8 bits.

        Args:
            train: items (image, label) by number, with a length: an image is a PIL picture, or a tensor or array of
                shape (C, H, W), uint8 or in [0, 1] in whole multiples of 1/255. Or a pair (images, labels) of tensors
                or arrays, see :meth:`from_tensors`.
            test: like ``train``.
            classes: the name of each label; by default ``train.classes``, or else its number.
            name: what results call it.
            progress: called as images are read.

        Raises:
            DataError: images or labels other than these; the message says what to do.
        """
        if classes is None:
            classes = getattr(train, "classes", None)
        parts = [_as_tensors(part, f"{name}: {kind}", progress) for kind, part in (("train", train), ("test", test))]
        return cls.from_tensors(*parts[0], *parts[1], classes=classes, name=name)

    def part(self, n: int) -> "Source":
        """A copy with only ``n`` of the training images, every class in proportion, and their statistics.

        The same images are drawn for every seed, and they stay in file order. (The first ``n`` images of a folder of
        classes would all be of one class.)
        """
        self.check_trainable()
        if not 0 < n <= len(self.train):
            raise DataError(f"{self.name}: a limit must be in 1 .. {len(self.train)}, its training images, got {n}")
        if n == len(self.train):
            return self
        _, rows = draw(self.train.labels, n, 0, "part", proportional=True)
        train = Split(self.train.images[rows], self.train.labels[rows])
        return self.from_splits(self.name, self.classes, train, self.test, self.notes)

    def matched(self, outputs: Sequence[str], model: str, advice: str) -> "Source":
        """The same images, each labelled by the number of the model's output that has the name of its class.

        Names are compared in Unicode's NFC form. A note says so, unless all names are the same in the same order.

        Args:
            outputs: the class name of each output of a model.
            model: what an error calls it.
            advice: the last part of an error: what to do.

        Raises:
            DataError: a class here whose name no output has, or several have.
        """
        if tuple(outputs) == self.classes:
            return self
        numbers: dict[str, list[int]] = {}
        for number, name in enumerate(outputs):
            numbers.setdefault(unicodedata.normalize("NFC", name), []).append(number)
        numbers_of_class = [numbers.get(unicodedata.normalize("NFC", name), []) for name in self.classes]
        if unknown := [name for name, number in zip(self.classes, numbers_of_class, strict=True) if not number]:
            lower = {name.lower(): name for name in outputs}
            near = difflib.get_close_matches(unknown[0].lower(), lower, 1, 0.8)
            hint = f" (did you mean {lower[near[0]]!r}?)" if near else ""
            raise DataError(
                f"{self.name}: {model} has no output for the class{'es' * (len(unknown) > 1)} {listed(unknown)}{hint}; "
                f"its {len(outputs):,} classes are {listed(outputs)}: {advice}"
            )
        if twice := [name for name, number in zip(self.classes, numbers_of_class, strict=True) if len(number) > 1]:
            raise DataError(f"{self.name}: {model} has several outputs called {twice[0]!r}: name them apart")
        table = torch.tensor([number for (number,) in numbers_of_class])
        train, test = (Split(split.images, table[split.labels]) for split in (self.train, self.test))
        some = f"; {len(self.classes):,} of the model's {len(outputs):,} classes are here"
        note = f"labels are matched to the model's outputs by name{some * (len(outputs) != len(self.classes))}"
        return replace(self, classes=tuple(outputs), train=train, test=test, notes=(*self.notes, note))

    def noted(self, note: str) -> "Source":
        """A copy with one more note."""
        return replace(self, notes=(*self.notes, note))

    def check_trainable(self) -> None:
        """Raise DataError if there are no training images."""
        if not len(self.train):
            raise DataError(
                f"{self.name}: has only test images, nothing to train on: add a train/ folder, or, where there are "
                "only class folders, draw a part as test by --test_fraction 0.2 (in Python test_fraction=0.2)"
            )

    def holdout(self, n: int, seed: int) -> tuple[Split, Split]:
        """The training data divided into (train, val), with ``n`` samples in val; never a test sample.

        Every class gives val the same number of samples, to within one, unless that is more than half of
        the class. Both parts keep the file order and copy no image. The draw is named (seed, "holdout").
        """
        self.check_trainable()
        if not 0 < n < len(self.train):
            raise DataError(
                f"{self.name}: cannot hold out {n} of {len(self.train)} training images and train on others"
            )
        kept, held = draw(self.train.labels, n, seed, "holdout")
        return self.train.subset(kept), self.train.subset(held)


def listed(names: Sequence[str]) -> str:
    """The first of some names, for a message of one line."""
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")


def _as_tensors(part: Any, what: str, progress: OnProgress) -> tuple[Tensor, Tensor]:
    """(images, labels) of one split, see :meth:`Source.from_datasets`."""
    if isinstance(part, tuple | list) and [isinstance(each, Tensor | np.ndarray) for each in part] == [True, True]:
        return torch.as_tensor(part[0]), torch.as_tensor(part[1])
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        raise DataError(
            f"{what} must be a data set with a length and items (image, label), or a pair (images, labels) of tensors "
            f"or arrays, got a {type(part).__name__}"
        )
    images: list[Tensor] = []
    labels: list[int] = []
    count = len(part)
    for number in range(count):
        try:
            image, label = part[number]
            image = image if isinstance(image, Tensor) else _pixels_of(image)
            labels.append(int(label))
        except (TypeError, ValueError) as error:
            raise DataError(f"{what}: item {number} is no pair (image, label): {error}") from error
        if images and image.shape != images[0].shape:
            shapes = f"{tuple(image.shape)}, that of item 0 {tuple(images[0].shape)}"
            raise DataError(f"{what}: the image of item {number} has shape {shapes}: bring all to one size")
        images.append(image)
        if number % 256 == 255 or number + 1 == count:
            progress(number + 1, count, what)
    if not images:
        raise DataError(f"{what} has no items")
    return torch.stack(images), torch.tensor(labels)


def _pixels_of(image: Any) -> Tensor:
    """A PIL picture, grey or RGB, or an array (C, H, W), as a tensor (C, H, W)."""
    if isinstance(image, np.ndarray):
        return torch.from_numpy(image)
    if getattr(image, "mode", None) not in ("L", "RGB"):
        kind = f"a picture of mode {image.mode}" if hasattr(image, "mode") else f"a {type(image).__name__}"
        raise TypeError(f"its image is {kind}, expected a grey (L) or RGB picture, a tensor or an array")
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
