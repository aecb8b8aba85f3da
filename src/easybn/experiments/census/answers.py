"""What one training's census found, in a file: a number for each image, so that any threshold can be asked for."""

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ...analysis.answers import Answers
from ...files import replacing
from ...models.state import checksums, read_safetensors
from ...reading import check_regular

_NAMES = ("confidence", "of_label", "correct")


@dataclass(frozen=True, eq=False)
class CensusAnswers:
    """The answers on N training images and on their easy copies.

    Args:
        ids: (N,) int64, the images' numbers in the data set's training split.
        labels: (N,) int64.
        own, copies: of the images as they are, and of their easy copies.
    """

    ids: Tensor
    labels: Tensor
    own: Answers
    copies: Answers

    def save(self, path: Path) -> None:
        """As safetensors: ids, labels; confidence, of_label, correct; and copy_confidence and so on."""
        tensors = {"ids": self.ids, "labels": self.labels}
        for before, answers in (("", self.own), ("copy_", self.copies)):
            tensors |= {f"{before}{name}": getattr(answers, name) for name in _NAMES}
        whole = {name: value.contiguous() for name, value in tensors.items()}
        with replacing(path) as file:
            file.write(safetensors.torch.save(whole, checksums(whole)))

    @classmethod
    def read(cls, path: Path) -> "CensusAnswers":
        """What :meth:`save` wrote.

        Raises:
            ValueError: another content.
        """
        try:
            check_regular(path)
            _, found = read_safetensors(path)
            own, copies = (Answers(*(found[before + name] for name in _NAMES)) for before in ("", "copy_"))
            return cls(found["ids"], found["labels"], own, copies)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, to have it made again") from error
