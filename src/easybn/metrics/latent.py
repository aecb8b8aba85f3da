"""How alike a network's layers see images: through two branches, and clean beside easy and adversarial ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from ..modes import evaluating
from ..perturb.ball import Linf
from ..perturb.goal import easy, untargeted
from ..perturb.pgd import PGD
from ..progress import OnProgress, silent
from .features import Features, features
from .hidden_states import default_layers
from .instrument import Instrument, Measured, Plot, Subject
from .intervals import jackknife

CKA, BRANCHES, SEPARATION = "cka", "cka_of_branches", "class_separation"
CLEAN, EASY, ADVERSARIAL = "clean", "easy copies", "adversarial copies"


def unbiased_hsic(k: Tensor, m: Tensor) -> Tensor:
    """The unbiased estimator of the Hilbert-Schmidt independence criterion (Song et al., JMLR 2012, equation 5).

    Args:
        k, m: (n, n) symmetric, n at least 4: products of the features of n images under two representations.

    Returns:
        A scalar of their type; it may be negative.
    """
    n = len(k)
    if n < 4:
        raise ValueError(f"the unbiased estimator needs at least 4 images, got {n}")
    diagonal_k, diagonal_m = k.diagonal(), m.diagonal()
    rows_k, rows_m = k.sum(1) - diagonal_k, m.sum(1) - diagonal_m
    products = (k * m).sum() - diagonal_k @ diagonal_m
    sums = rows_k.sum() * rows_m.sum() / ((n - 1) * (n - 2))
    return (products + sums - 2 / (n - 2) * (rows_k @ rows_m)) / (n * (n - 3))


def cka(k: Tensor, m: Tensor) -> float:
    """Linear CKA (Kornblith et al., 2019) with the unbiased estimator of HSIC, as Nguyen et al. (2021) use it.

    The usual, biased one approaches 1 for unrelated features of few images in many dimensions. At most 1 up to the
    noise of the estimator; 1 for the same features up to a rotation and a scale. 0 if either does not vary.

    Args:
        k, m: (n, n) products of the features of n images, n at least 4.
    """
    sizes = unbiased_hsic(k, k) * unbiased_hsic(m, m)
    return float(unbiased_hsic(k, m) / sizes.sqrt()) if sizes > 0 else 0.0


def class_separation(gram: Tensor, y: Tensor) -> float:
    """R^2 of Kornblith et al. (2021): 1 - d_within / d_total, mean cosine distances within classes and over all.

    Every class counts alike; pairs of an image with itself count, as there. 1 if each class is one direction and they
    differ, 0 if classes mean nothing.

    Args:
        gram: (n, n) cosines of the features of n images.
        y: (n,) their labels.
    """
    _, index = torch.unique(y, return_inverse=True)
    member = torch.nn.functional.one_hot(index).to(gram)
    mean = member / member.sum(0)
    between = mean.T @ gram @ mean  # (K, K): the mean cosine of each pair of classes
    within, total = 1 - between.diagonal().mean(), 1 - between.mean()
    return float(1 - within / total) if total > 0 else 0.0


def clean_and_copies(subject: Subject, attack: PGD) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Batches of the clean images, of their easy and of their adversarial copies, by name; and the labels (n,).

    Args:
        attack: makes the copies, for the deployed network.
    """
    images: dict[str, list[Tensor]] = {CLEAN: [], EASY: [], ADVERSARIAL: []}
    labels = []
    for _, x, y in subject.batches():
        with evaluating(subject.model):
            copies = {EASY: attack(subject.model, x, easy(y)), ADVERSARIAL: attack(subject.model, x, untargeted(y))}
        for kind, batch in {CLEAN: x, **copies}.items():
            images[kind].append(batch)
        labels.append(y)
    return images, torch.cat(labels)


@dataclass(frozen=True)
class Latent(Instrument):
    """Linear CKA and class separation, layer by layer.

    CKA is 1 where a layer arranges the images alike, up to a rotation and a scale. Compared are the clean images
    through two branches, and clean images with their easy and adversarial copies through the deployed branch. Copies
    are made for the deployed network, by PGD within l-infinity.

    Args:
        eps: radius of the copies in [0, 1] pixel units.
        steps: gradient steps, of length eps if there is one, else 2.5 eps / steps.
    """

    eps: float = 8 / 255
    steps: int = 1
    name: ClassVar[str] = "latent"
    title: ClassVar[str] = "Latent space"
    reads: ClassVar[str] = (
        "Linear CKA (Kornblith et al. 2019, unbiased HSIC): 1 where a layer arranges the images alike. Class "
        "separation R2 (Kornblith et al. 2021, cosine): 1 where classes are points apart. Intervals: jackknife."
    )
    order: ClassVar[int] = 20
    images: ClassVar[int] = 500
    branches: ClassVar[bool] = True
    plots: ClassVar[Sequence[Plot]] = (
        Plot(CKA, "CKA of clean images and adversarial copies", y="CKA", from_zero=False, series=ADVERSARIAL),
        Plot(CKA, "CKA of clean images and easy copies", y="CKA", from_zero=False, series=EASY),
        Plot(BRANCHES, "CKA of clean images through two branches", y="CKA", from_zero=False, together=True),
        Plot(SEPARATION, "class separation of clean images", y="R2", series=CLEAN),
        Plot(SEPARATION, "class separation", y="R2", together=True, folded=True),
    )

    def __post_init__(self) -> None:
        self._copies()  # raises for what is out of range

    def _copies(self) -> PGD:
        return PGD(Linf(self.eps), steps=self.steps)

    def measure(self, subject: Subject, on_progress: OnProgress = silent) -> list[Measured]:
        if len(subject.ids) < 4:
            raise ValueError(f"latent needs at least 4 images, got {len(subject.ids)}")
        images, y = clean_and_copies(subject, self._copies())
        others = {name: model for name, model in subject.models.items() if name != subject.branch}
        found: list[Measured] = []
        streams = [
            (kind, features(subject.model, batches, default_layers(subject.model))) for kind, batches in images.items()
        ]
        streams += [(name, features(model, images[CLEAN], default_layers(model))) for name, model in others.items()]
        depths = len(default_layers(subject.model)) + 2
        for states in zip(*(stream for _, stream in streams), strict=True):
            layers = {name: state for (name, _), state in zip(streams, states, strict=True)}
            found += self._of_layer(layers, subject, y, list(others))
            on_progress(min(states[0].depth + 1, depths), depths, "layers")
        return found

    def _of_layer(
        self, states: Mapping[str, Features], subject: Subject, y: Tensor, others: Sequence[str]
    ) -> list[Measured]:
        """What is measured at one layer.

        Args:
            states: of clean images, easy and adversarial copies through the deployed network, and of clean images
                through the ``others``, by name.
        """
        state, n, found = states[CLEAN], len(y), []

        def add(measure: str, series: str, statistic: Callable[[Tensor], float]) -> None:
            found.append(Measured(measure, series, state.layer, state.depth, n, *jackknife(statistic, n, subject.seed)))

        products = {name: _products(each.flat.to(subject.device)) for name, each in states.items()}
        for kind in (EASY, ADVERSARIAL):
            add(CKA, kind, _cka_of(products[CLEAN], products[kind]))
        for a, b in combinations([CLEAN, *others], 2) if state.depth else ():
            pair = f"{subject.branch if a == CLEAN else a} and {b}"
            add(BRANCHES, pair, _cka_of(products[a], products[b]))
        for name, each in states.items():
            cosines = _cosines(each.flat.to(subject.device))
            series = f"clean, branch {name}" if name in others else name
            add(SEPARATION, series, _separation_of(cosines, y))
        return found


def _cka_of(k: Tensor, m: Tensor) -> Callable[[Tensor], float]:
    """CKA as a function of the images that take part."""
    return lambda rows: cka(k[rows][:, rows], m[rows][:, rows])


def _separation_of(cosines: Tensor, y: Tensor) -> Callable[[Tensor], float]:
    """Class separation as a function of the images that take part."""
    return lambda rows: class_separation(cosines[rows][:, rows], y[rows])


def _products(x: Tensor) -> Tensor:
    """(n, n) float64: products of rows, the mean row subtracted, which changes no CKA and makes them accurate."""
    x = x.double()
    x = x - x.mean(0, keepdim=True)
    return x @ x.T


def _cosines(x: Tensor) -> Tensor:
    """(n, n) float64: cosines of rows; 0 for a row of zeros."""
    x = torch.nn.functional.normalize(x.double(), dim=1)
    return x @ x.T
