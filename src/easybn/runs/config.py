"""What a run is asked to do: the experiment, and its digest."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..data import Source, Split
from ..data.source import listed
from ..files import write_text
from ..json_files import read_any_json
from ..recipes.recipe import Recipe
from ..recipes.vanilla import Vanilla
from ..train.schedule import Training
from .description import NOT_IN_DIGEST, describe, numbers_alike


@dataclass(frozen=True)
class SampleIds:
    """Some training images of a data set, chosen by number; in a file, so that a training can leave them out.

    Args:
        data: the name of the data set.
        images: how many training images it has (after ``train_images``, where a run uses only a part).
        ids: their numbers in file order, 0 .. images - 1, ascending.
        chosen: how they were chosen, in words.
        classes: the data set's classes, in whose order the images are numbered; None if the file does not say.

    Raises:
        ValueError: numbers that repeat, are not in order or are out of range.
    """

    data: str
    images: int
    ids: tuple[int, ...]
    chosen: str = ""
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if sorted(set(self.ids)) != list(self.ids):
            raise ValueError("ids must be ascending, each number once")
        if self.ids and not 0 <= self.ids[0] <= self.ids[-1] < self.images:
            raise ValueError(f"ids must be in 0 .. {self.images - 1}, got {self.ids[0]} .. {self.ids[-1]}")

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits over the data set's name, its size and the ids."""
        text = json.dumps([self.data, self.images, self.ids])
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path | str) -> "SampleIds":
        """Read what :meth:`save` or another program wrote: {"data": ..., "images": ..., "ids": [...]}.

        Raises:
            ValueError: there is no such file, or it has other contents.
        """
        try:
            content = read_any_json(path)
            data, images, ids = content["data"], content["images"], content["ids"]
            if not isinstance(data, str) or not all(type(number) is int for number in (images, *ids)):
                raise TypeError("data must be text, images and ids whole numbers")
            classes = content.get("classes")
            classes = None if classes is None else tuple(map(str, classes))
            return cls(data, images, tuple(ids), str(content.get("chosen", "")), classes)
        except FileNotFoundError:
            raise ValueError(f"there is no file {path} of sample ids (easybn census writes one)") from None
        except (ValueError, KeyError, TypeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f'{path} does not hold sample ids, {{"data", "images", "ids"}}: {what}') from error


def without(train: Split, source: Source, left_out: SampleIds) -> Split:
    """The images of ``train``, a view of ``source.train``, without those that are left out.

    Raises:
        ValueError: the ids are of another data set, or no image remains.
    """
    if (left_out.data, left_out.images) != (source.name, len(source.train)):
        there, here = f"{left_out.images:,} of {left_out.data}", f"{len(source.train):,} of {source.name}"
        raise ValueError(f"leave_out: its ids number training images {there}, the data set here has {here}")
    if left_out.classes is not None and left_out.classes != source.classes:
        there, here = listed(left_out.classes), listed(source.classes)
        raise ValueError(f"leave_out: its ids number the images of the classes {there}; {source.name} has {here}")
    stays = ~torch.isin(train.numbers, torch.tensor(left_out.ids, dtype=torch.int64))
    if not stays.any():
        raise ValueError("leave_out: no training image remains")
    return train.subset(stays.nonzero().squeeze(1))


VERSION = 1
DATA_OPTIONS = ("resize", "channels", "test_fraction")  # of image folders
# fields that older runs lack; None means the behaviour then
_LATER = ("left_out", "share", "sync_batchnorm", *DATA_OPTIONS)


@dataclass(frozen=True)
class Experiment:
    """One training: a data set, a network, a recipe and how long.

    Args:
        recipe: the training method, with its fields: Vanilla, AdvProp, EBN, EBNShared, AdvPropEBN,
            FastAdvProp, FastEBN, LightAdversarialTraining, AdversarialTraining, or your own class (my.py:MyRecipe).
        data: a name that ``easybn data`` lists, the path of an image folder or zip, or my.py:make.
        model: resnet_tiny, resnet_small, resnet18, resnet50, timm:NAME, torchvision:NAME, or my.py:make.
        model_options: keyword arguments of the model, such as {pretrained: true}.
        norms: kinds of norm layers that get branches: batch, layer, group; [layer] for a vision transformer.
        share: what the branches of a norm layer have in common: affine, its weight and bias, so that only the running
            statistics are apart; by default nothing.
        validation: share of the training images held out to validate on.
        train_images: number of training images to use, every class in proportion, the same ones for every seed; by
            default all.
        data_folder: folder of the data set; by default it is searched for.
        resize: for an image folder: height and width of all images (the shorter side is resized, the longer one
            cropped); by default sizes stay as they are, or become the most frequent one if they differ.
        channels: for an image folder: 3 (RGB, the default) or 1 (grey).
        test_fraction: for an image folder without test images: share of each class to hold out as test images.
        leave_out: file with the numbers of training images to leave out, as ``easybn census`` writes; by default none.
            Images held out by ``validation`` stay.
        left_out: digest of the numbers in that file, which identifies them wherever the file is.
        training: epochs, learning rate and so on.
    """

    recipe: Recipe = Vanilla()
    data: str = "sample"
    model: str = "resnet_tiny"
    model_options: dict[str, Any] = field(default_factory=dict)
    norms: tuple[str, ...] = ("batch",)
    share: Literal["affine"] | None = None
    validation: float = 0.1
    train_images: int | None = None
    data_folder: str | None = None
    resize: int | None = None
    channels: int | None = None
    test_fraction: float | None = None
    leave_out: str | None = None
    left_out: str | None = field(default=None, init=False)
    training: Training = Training()

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is a share of the training images in [0, 1), got {self.validation}")
        if self.share is not None and len(self.recipe.branches) == 1:
            raise ValueError(f"share: {type(self.recipe).__name__} has one branch, which shares nothing: leave it out")
        if self.leave_out is not None:
            object.__setattr__(self, "left_out", SampleIds.read(self.leave_out).digest)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits over all fields that change results."""
        content = {name: value for name, value in describe(self).items() if name not in NOT_IN_DIGEST}
        training = content["training"].items()
        content["training"] = {name: value for name, value in training if name not in _LATER or value is not None}
        content = {name: value for name, value in content.items() if name not in _LATER or value is not None}
        text = json.dumps(numbers_alike({"version": VERSION, **content}), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
