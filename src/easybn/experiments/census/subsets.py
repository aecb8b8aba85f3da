"""Easy images to leave out of training, and as many random ones: does it hurt, and does it hurt less?

The paper cites Kishida & Nakayama (2019): easy examples could be removed without influencing generalization. That is
a finding about them only if removing as many others does.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...data import Source
from ...keyed_random import permutation
from ..sample_ids import SampleIds
from .answers import CensusAnswers
from .settings import Census


def subset_path(folder: Path, wanted: Census, kind: str = "easy") -> Path:
    """The file of the images that are "easy" in every seed, or of as many "random" ones."""
    return folder / f"{kind}-above-{wanted.threshold:g}-epoch-{wanted.epochs}-seeds-{wanted.seeds}.json"


def subsets(source: Source, wanted: Census, found: Sequence[CensusAnswers]) -> Iterator[tuple[str, SampleIds]]:
    """ "easy" and "random" with their images.

    Args:
        found: of every seed, after the last epoch.
    """
    ids, labels, easy = found[0].ids, found[0].labels, easy_in_all(found, wanted.threshold)
    of_all = len(source.train)
    how = f"confidence above {wanted.threshold:g} after epoch {wanted.epochs} in each of {wanted.seeds} trainings"
    chosen = tuple(ids[easy].tolist())
    yield "easy", SampleIds(source.name, of_all, chosen, f"easy: {how}", source.classes)
    drawn = permutation(len(ids), 0, "census control")
    control: list[int] = []
    for label in range(len(source.classes)):
        of = drawn[labels[drawn] == label][: int((easy & (labels == label)).sum())]
        control += ids[of].tolist()
    like = f"random, as many of each class as are easy: {how}"
    yield "random", SampleIds(source.name, of_all, tuple(sorted(control)), like, source.classes)


def easy_in_all(found: Sequence[CensusAnswers], threshold: float) -> Tensor:
    """(N,) bool: the images that are easy in every training, at least one."""
    return torch.stack([each.own.easy(threshold) for each in found]).all(0)
