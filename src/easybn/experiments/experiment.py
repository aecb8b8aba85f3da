"""What a run is asked to do, and the digest by which a run knows itself."""

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..recipes.recipe import Recipe
from ..recipes.vanilla import Vanilla
from ..rows import TEXT, TEXTS, Field, check, needed, optional, read_json
from ..train.training import Training
from .sample_ids import SampleIds

VERSION = 1


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class"), str)


_FIELDS = {
    "data": needed(TEXT),
    "model": needed(TEXT),
    "recipe": Field("an object with its class", _is_named, needed=True),
    "training": Field("an object", lambda value: isinstance(value, dict) and isinstance(value.get("seed", 0), int)),
    "norms": TEXTS,
    "data_folder": optional(TEXT),
}
_NOT_IN_DIGEST = {"data_folder", "leave_out"}  # where something lies does not change what comes out
DATA_OPTIONS = ("resize", "channels", "test_fraction")  # of image folders
_LATER = ("left_out", *DATA_OPTIONS)  # fields that older runs do not have; None is as it was before


@dataclass(frozen=True)
class Experiment:
    """One training: a data set, a network, a method and how long.

    Args:
        recipe: the training method, with its fields: Vanilla, AdvProp, EBN, EBNShared, AdvPropEBN,
            FastAdvProp, FastEBN, AdversarialTraining, or a class of your own.
        data: sample, fashion-mnist, cifar10, cifar100, or the path of an image folder or zip.
        model: resnet_tiny, resnet_small, resnet18, resnet50, timm:NAME or torchvision:NAME.
        model_options: passed on to the model, such as {pretrained: true}.
        norms: kinds of norm layers that get branches: batch, layer, group. [layer] for a vision transformer.
        validation: share of the training images held out to watch the training by.
        train_images: use only so many training images, every class in proportion, the same ones for every seed;
            all by default.
        data_folder: where the data set lies; searched for by default.
        resize: of an image folder: the height and width to bring all pictures to (the shorter side to that length, then
            the middle of the longer one); by default as they are, or where their sizes differ the most frequent one.
        channels: of an image folder: 3 (RGB, the default) or 1 (grey).
        test_fraction: of an image folder without test images: the share of each class that is drawn as such.
        leave_out: a file with the numbers of training images to train without, as ``easybn census`` writes; none by
            default. What is held out by ``validation`` is not touched.
        left_out: the digest of the numbers in that file, by which runs know each other: not where it lies.
        training: epochs, rates and the rest.
    """

    recipe: Recipe = Vanilla()
    data: str = "sample"
    model: str = "resnet_tiny"
    model_options: dict[str, Any] = field(default_factory=dict)
    norms: tuple[str, ...] = ("batch",)
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
        if self.leave_out is not None:
            object.__setattr__(self, "left_out", SampleIds.read(self.leave_out).digest)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits over every field that changes results."""
        content = {name: value for name, value in describe(self).items() if name not in _NOT_IN_DIGEST}
        content = {name: value for name, value in content.items() if name not in _LATER or value is not None}
        text = json.dumps(_numbers_alike({"version": VERSION, **content}), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def describe(value: Any) -> Any:
    """``value`` as JSON can hold it: dataclasses as their fields with a ``class``."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        path = kind.__name__ if kind.__module__.startswith("easybn.") else f"{kind.__module__}.{kind.__qualname__}"
        return {"class": path, **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, Fraction):
        return float(value)
    return value


def read_description(path: Path) -> dict[str, Any]:
    """The experiment that a run's config.json describes, see :func:`describe`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or describes no experiment.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} is no run: it has no {path.name}")
    found = read_json(path, {}).get("experiment")
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it does not describe an experiment")
    check(found, _FIELDS, str(path))
    return found


def _numbers_alike(value: Any) -> Any:
    """Equal numbers as equal text: 1, 1.0 and True are the same setting."""
    if isinstance(value, dict):
        return {key: _numbers_alike(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers_alike(item) for item in value]
    return float(value) if isinstance(value, (bool, int)) else value


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """The fields in which two descriptions differ: ``name: theirs -> ours``."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if (now := ours.get("class")) != (then := theirs.get("class")):  # their fields cannot be compared
            return [f"{name}: {then} -> {now}"]
        keys = [key for key in {**theirs, **ours} if key not in _NOT_IN_DIGEST]
        below = f"{name}." if name else ""
        return [d for key in keys for d in differences(ours.get(key), theirs.get(key), f"{below}{key}")]
    return [] if ours == theirs else [f"{name}: {theirs!r} -> {ours!r}"]
