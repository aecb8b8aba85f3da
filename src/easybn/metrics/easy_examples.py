"""Which images are easy for a model: classified correctly, with high confidence; over one training and over several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..data.source import Split
from ..files import check_regular, replacing
from ..models.checkpoint_files import checksums, read_safetensors
from ..modes import evaluating
from ..perturb.goal import easy
from ..perturb.pgd import PGD
from ..stats import overlap


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answers on N labelled images.

    Args:
        confidence: (N,) float32, the probability (softmax) of the class that it predicts.
        of_label: (N,) float32, the probability of the true class; where it is right, the same number.
        correct: (N,) bool, whether it predicts the true class.
    """

    confidence: Tensor
    of_label: Tensor
    correct: Tensor

    def __len__(self) -> int:
        return len(self.correct)

    def easy(self, threshold: float) -> Tensor:
        """(N,) bool: classified correctly with a confidence above ``threshold`` (Arpit et al. 2017, as the paper has
        it: easy examples are those "that the model classifies accurately with high confidence")."""
        return self.correct & (self.confidence > threshold)


@torch.no_grad()
def answers(
    model: nn.Module, split: Split, copies: PGD | None = None, batch_size: int = 512
) -> tuple[Answers, Answers | None]:
    """The answers of ``model``, in eval mode, on all images of ``split`` and, with ``copies``, on their easy copies.

    No mode, statistic or gradient of the model changes. In a model with branches the active one answers.

    Args:
        model: from images in [0, 1] to logits.
        split: the images as they are, without augmentation.
        copies: makes the perturbed easy copy of each image, for this model in eval mode.

    Returns:
        The answers on the images, and on the copies; tensors on the CPU. It costs one forward pass per image; with a
        one-step ``copies`` three forward passes and one backward pass.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    on_images: list[Answers] = []
    on_copies: list[Answers] = []
    with evaluating(model):
        for index in torch.split(torch.arange(len(split)), batch_size):
            x, y = (part.to(device) for part in split.batch(index))
            on_images.append(_answers(model(x.clone()), y))
            if copies is not None:
                on_copies.append(_answers(model(copies(model, x, easy(y))), y))
    return _joined(on_images), _joined(on_copies) if on_copies else None


def _answers(logits: Tensor, y: Tensor) -> Answers:
    probability = logits.float().softmax(1)
    confidence, predicted = probability.max(1)
    of_label = probability.gather(1, y[:, None]).squeeze(1)
    return Answers(confidence.cpu(), of_label.cpu(), (predicted == y).cpu())


def _joined(parts: list[Answers]) -> Answers:
    return Answers(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Answers)))


# The answers of one training in a file: a number for each image, so that another threshold needs no training.

_NAMES = ("confidence", "of_label", "correct")


@dataclass(frozen=True, eq=False)
class PairedAnswers:
    """The answers on N training images and on their easy copies.

    Args:
        ids: (N,) int64, the images' numbers in the data set's training split.
        labels: (N,) int64.
        images, copies: the answers on the images as they are, and on their easy copies.
    """

    ids: Tensor
    labels: Tensor
    images: Answers
    copies: Answers

    def save(self, path: Path) -> None:
        """As safetensors: ids, labels; confidence, of_label, correct; and copy_confidence and so on."""
        tensors = {"ids": self.ids, "labels": self.labels}
        for prefix, part in (("", self.images), ("copy_", self.copies)):
            tensors |= {f"{prefix}{name}": getattr(part, name) for name in _NAMES}
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        with replacing(path) as file:
            file.write(safetensors.torch.save(contiguous, checksums(contiguous)))

    @classmethod
    def read(cls, path: Path) -> "PairedAnswers":
        """What :meth:`save` wrote.

        Raises:
            ValueError: the file has another content.
        """
        try:
            check_regular(path)
            _, tensors = read_safetensors(path)
            images, copies = (Answers(*(tensors[prefix + name] for name in _NAMES)) for prefix in ("", "copy_"))
            return cls(tensors["ids"], tensors["labels"], images, copies)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, to have it made again") from error


# From the answers to rows: one per seed, and one per pair of seeds.


def seed_row(answers: PairedAnswers, threshold: float, classes: Sequence[str]) -> dict[str, Any]:
    """How many images are easy after one training.

    Returns:
        n, correct, accuracy, easy and easy_share (of all images), mean_confidence (of the predicted class) and
        mean_confidence_of_label; copies_correct, copies_easy, copies_easy_share, copies_mean_confidence; two measures
        of what the easy step does: confidence_shift, the mean change of the label's confidence, and made_easy, how
        many images are not easy and have an easy copy; per_class, a list of class, n, easy, copies_easy.
    """
    images, copies, n = answers.images, answers.copies, len(answers.ids)
    images_easy, copies_easy = images.easy(threshold), copies.easy(threshold)
    per_class = []
    for label, name in enumerate(classes):
        of_class = answers.labels == label
        counts = {"easy": int((images_easy & of_class).sum()), "copies_easy": int((copies_easy & of_class).sum())}
        per_class.append({"class": name, "n": int(of_class.sum()), **counts})
    return {
        "n": n,
        "correct": int(images.correct.sum()),
        "accuracy": int(images.correct.sum()) / n,
        "easy": int(images_easy.sum()),
        "easy_share": int(images_easy.sum()) / n,
        "mean_confidence": _mean(images.confidence),
        "mean_confidence_of_label": _mean(images.of_label),
        "copies_correct": int(copies.correct.sum()),
        "copies_easy": int(copies_easy.sum()),
        "copies_easy_share": int(copies_easy.sum()) / n,
        "copies_mean_confidence": _mean(copies.confidence),
        "confidence_shift": _mean(copies.of_label.double() - images.of_label.double()),
        "made_easy": int((copies_easy & ~images_easy).sum()),
        "per_class": per_class,
    }


def overlap_rows(by_seed: Mapping[int, PairedAnswers], threshold: float) -> list[dict[str, Any]]:
    """A row for each pair of seeds: seed_a, seed_b, n, easy_a, easy_b, easy_both, jaccard, jaccard_by_chance, kappa.

    Args:
        by_seed: all of the same images.
    """
    rows = []
    for (seed_a, a), (seed_b, b) in combinations(by_seed.items(), 2):
        pair = overlap(a.images.easy(threshold), b.images.easy(threshold))
        counts = {"n": pair.n, "easy_a": pair.a, "easy_b": pair.b, "easy_both": pair.both}
        agreement = {"jaccard": pair.jaccard, "jaccard_by_chance": pair.jaccard_by_chance, "kappa": pair.kappa}
        rows.append({"seed_a": seed_a, "seed_b": seed_b, **counts, **agreement})
    return rows


def easy_in_all(answers: Sequence[PairedAnswers], threshold: float) -> Tensor:
    """(N,) bool: the images that are easy in every training, at least one."""
    return torch.stack([each.images.easy(threshold) for each in answers]).all(0)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
