"""Where a run was made: versions, commit, machine, threads."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Source, Split
from ..data.source import listed
from ..files import write_text
from ..json_files import Field, check, read_json
from ..json_files import read_any_json as read_any_json
from ..recipes.recipe import Recipe
from ..recipes.vanilla import Vanilla
from ..rows import TEXT, TEXTS, needed, optional
from ..train.schedule import Training

# Training images chosen by number, in a file: such as the easy ones, to train without them.


@dataclass(frozen=True)
class SampleIds:
    """Some of a data set's training images.

    Args:
        data: the name of the data set.
        images: how many training images it has (after ``train_images``, where a run uses only a part).
        ids: their numbers in file order, 0 .. images - 1, ascending.
        chosen: how they were chosen, in words.
        classes: the data set's, in whose order the images are numbered; None of a file that does not say them.

    Raises:
        ValueError: numbers that repeat or are out of range.
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
        """As JSON, in one piece."""
        write_text(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path | str) -> "SampleIds":
        """What :meth:`save` wrote, or another program: {"data": ..., "images": ..., "ids": [...]}.

        Raises:
            ValueError: there is no such file, or another content.
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
            raise ValueError(f'{path} is no file of sample ids, {{"data", "images", "ids"}}: {what}') from error


def without(train: Split, source: Source, left_out: SampleIds) -> Split:
    """The images of ``train``, a view of ``source.train``, that are not left out.

    Raises:
        ValueError: the ids are of another data set, or nothing is left.
    """
    if (left_out.data, left_out.images) != (source.name, len(source.train)):
        there, here = f"{left_out.images:,} of {left_out.data}", f"{len(source.train):,} of {source.name}"
        raise ValueError(f"leave_out: its ids number training images {there}, the data set here has {here}")
    if left_out.classes is not None and left_out.classes != source.classes:
        there, here = listed(left_out.classes), listed(source.classes)
        raise ValueError(f"leave_out: its ids number the images of the classes {there}; {source.name} has {here}")
    stays = ~torch.isin(train.numbers, _tensor(left_out))
    if not stays.any():
        raise ValueError("leave_out: no training image is left")
    return train.subset(stays.nonzero().squeeze(1))


def _tensor(ids: SampleIds) -> Tensor:
    return torch.tensor(ids.ids, dtype=torch.int64)


# What a run is asked to do, and the digest by which a run knows itself.

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
        data: a name that ``easybn data`` lists, the path of an image folder or zip, or my.py:make.
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


def environment() -> dict[str, Any]:
    """What is worth knowing about this process, for a run's ``environment.json``."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("easybn", "torch", "torchvision", "timm", "numpy")},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree that runs, with a ``+`` where it was changed; None for an installed wheel."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
