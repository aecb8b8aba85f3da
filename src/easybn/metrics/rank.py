"""The effective rank of what the layers make of images, and of their weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..progress import OnProgress, silent
from .features import Features, features
from .hidden_states import IMAGE, LOGITS, default_layers
from .instrument import Instrument, Measured, Plot, Subject, compared
from .intervals import jackknife

CHANNELS, OUTPUTS, WEIGHTS = "effective_rank_of_channels", "effective_rank", "effective_rank_of_weights"


def effective_rank(singular_values: Tensor) -> float:
    """exp(H(p)) with p the singular values over their sum and H Shannon's entropy (Roy and Vetterli, 2007).

    k for k equal singular values, and less the more unequal they are; at least 1. It does not change when the matrix is
    scaled, or multiplied by an orthogonal one. 0 of a matrix of zeros.

    Args:
        singular_values: (k,), none negative.
    """
    p = singular_values.double()
    if not (total := p.sum()) > 0:
        return 0.0
    p = p / total
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def rank_of_rows(x: Tensor) -> float:
    """The effective rank of a matrix (n, d), the mean of its rows subtracted; in float64."""
    x = x.double()
    x = x - x.mean(0, keepdim=True)
    return _of_eigenvalues(x.T @ x if x.shape[1] < len(x) else x @ x.T)


def rank_of_gram(gram: Tensor) -> float:
    """The same from the products of the rows, (n, n) float64, whatever was subtracted from all of them before."""
    centred = gram - gram.mean(0, keepdim=True)
    return _of_eigenvalues(centred - centred.mean(1, keepdim=True))


def _of_eigenvalues(matrix: Tensor) -> float:
    """Of the square roots of a symmetric matrix's eigenvalues, those that are rounding left out."""
    values = torch.linalg.eigvalsh(matrix)
    noise = len(matrix) * torch.finfo(torch.float64).eps * values.max()
    return effective_rank(values.where(values > noise, 0).sqrt())


@dataclass(frozen=True)
class Rank(Instrument):
    """Effective rank of features and weights (Roy and Vetterli, 2007; as Huh et al., 2021, use it on networks).

    Features: the matrix of a layer's outputs, a row per image, the mean over images subtracted, through each branch;
    once of the means over positions (the channels), and once of the whole outputs. The interval is the jackknife's over
    groups of images (a bootstrap repeats images, which lowers a rank). It is at most the number of images less one, and
    of whole outputs rises with it: compare networks at one number of images. Weights: of every convolution and linear
    layer, the matrix (outputs, inputs times kernel), exact.
    """

    name: ClassVar[str] = "rank"
    title: ClassVar[str] = "Rank of representations"
    reads: ClassVar[str] = (
        "Effective rank (Roy and Vetterli 2007; Huh et al. 2021): in how many directions, counted by their share, the "
        "channels of a layer differ between images. Intervals: jackknife over images."
    )
    order: ClassVar[int] = 10
    images: ClassVar[int] = 500
    branches: ClassVar[bool] = True
    plots: ClassVar[Sequence[Plot]] = (
        Plot(CHANNELS, "effective rank of channels", y="effective rank", together=True),
        Plot(OUTPUTS, "effective rank of whole outputs", y="effective rank", together=True, folded=True),
        Plot(WEIGHTS, "effective rank of weights", "weight, from the input on", "effective rank", folded=True),
    )

    def measure(self, subject: Subject, on_progress: OnProgress = silent) -> list[Measured]:
        if len(subject.ids) < 3:
            raise ValueError(f"rank needs at least 3 images, got {len(subject.ids)}")
        batches = [x for _, x, _ in subject.batches()]
        found: list[Measured] = []
        for i, (branch, model) in enumerate(subject.models.items()):
            layers = default_layers(model)
            for state in features(model, batches, layers):
                if state.layer != IMAGE:
                    found.append(_measured(CHANNELS, branch, state, state.pooled, subject))
                found.append(_measured(OUTPUTS, branch, state, state.flat, subject))
                depths = len(layers) + 2
                on_progress(i * depths + state.depth + 1, depths * len(subject.models), f"{branch} branch")
        return [*found, *_of_weights(subject.model)]

    @classmethod
    def sentence(cls, measured: Mapping[str, Sequence[Measured]]) -> str:
        """About the last layer before the logits, the representation that Huh et al. measure."""
        before = {label: [each for each in values if each.place != LOGITS] for label, values in measured.items()}
        return compared(cls.plots[0], before)


def _measured(measure: str, branch: str, state: Features, x: Tensor, subject: Subject) -> Measured:
    n, columns = x.shape
    x = x.to(subject.device).double()
    if columns < n:
        value, low, high = jackknife(lambda rows: rank_of_rows(x[rows]), n, subject.seed)
    else:
        centred = x - x.mean(0, keepdim=True)  # first, so that the products are accurate
        gram = centred @ centred.T
        value, low, high = jackknife(lambda rows: rank_of_gram(gram[rows][:, rows]), n, subject.seed)
    low = None if low is None else max(low, 0.0)
    return Measured(measure, branch, state.layer, state.depth, n, value, low, high, {"most": min(n - 1, columns)})


def _of_weights(model: nn.Module) -> Iterator[Measured]:
    matrices = {name: p for name, p in model.named_parameters() if name.endswith("weight") and p.dim() > 1}
    for depth, (name, weight) in enumerate(matrices.items(), 1):
        matrix = weight.detach().double().flatten(1)
        value = effective_rank(torch.linalg.svdvals(matrix))
        place = name.removesuffix(".weight")
        yield Measured(WEIGHTS, "", place, depth, 0, value, detail={"most": min(matrix.shape)})
