"""Training images chosen by number, in a file: such as the easy ones, to train without them."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import Source, Split
from ..data.source import listed
from ..files import write_text
from ..reading import read_json


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
            content = read_json(path)
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
