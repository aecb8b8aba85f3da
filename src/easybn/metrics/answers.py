"""What a model answers on labelled images, and which of them are easy for it."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ..data.source import Split
from ..modes import evaluating
from ..perturb.goal import easy
from ..perturb.pgd import PGD


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of N labelled images.

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

    No mode, statistic or gradient of the model changes. A model with branches answers by the active one.

    Args:
        model: from images in [0, 1] to logits.
        split: the images as they are, without augmentation.
        copies: makes the perturbed easy copy of each image, for this model in eval mode.

    Returns:
        The answers on the images, and on the copies; tensors on the CPU. A forward pass an image; with a one-step
        ``copies``, three forward passes and a backward pass.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    found: list[Answers] = []
    moved: list[Answers] = []
    with evaluating(model):
        for index in torch.split(torch.arange(len(split)), batch_size):
            x, y = (part.to(device) for part in split.batch(index))
            found.append(_answers(model(x.clone()), y))
            if copies is not None:
                moved.append(_answers(model(copies(model, x, easy(y))), y))
    return _joined(found), _joined(moved) if moved else None


def _answers(logits: Tensor, y: Tensor) -> Answers:
    probability = logits.float().softmax(1)
    confidence, predicted = probability.max(1)
    of_label = probability.gather(1, y[:, None]).squeeze(1)
    return Answers(confidence.cpu(), of_label.cpu(), (predicted == y).cpu())


def _joined(parts: list[Answers]) -> Answers:
    return Answers(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Answers)))
