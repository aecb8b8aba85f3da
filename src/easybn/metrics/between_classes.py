"""Where clean, easy and adversarial images lie between their own class and the next one, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..perturb.ball import Linf
from ..perturb.pgd import PGD
from ..progress import OnProgress, silent
from .features import features
from .hidden_states import default_layers
from .instrument import Instrument, Measured, Plot, Subject, figure
from .intervals import mean_interval
from .latent import ADVERSARIAL, CLEAN, EASY, clean_and_copies

POSITION = "position_between_classes"


def positions(clean: Tensor, others: Mapping[str, Tensor], y: Tensor) -> dict[str, Tensor]:
    """How far each image is from the centre of its own class (0) to that of the nearest other one (1).

    The projection on the line through the two centres: t = (h - a)(b - a) / ||b - a||^2; one half is midway. Centres
    are means of clean images, that of the own class without the image itself. Which other class is nearest says the
    clean image; its copies are projected on the same line. Images that are alone in their class are left out.

    Args:
        clean: (n, d) features of clean images; others: (n, d) of their copies, by name.
        y: (n,) labels.

    Returns:
        {"clean" and the names of ``others``: (m,) float64}, m the number of images in classes of two or more; of
        fewer than two such classes m is 0.
    """
    clean = clean.double()
    every = {CLEAN: clean, **{name: x.double() for name, x in others.items()}}
    _, index, counts = torch.unique(y, return_inverse=True, return_counts=True)
    centres = torch.stack([clean[index == k].mean(0) for k in range(len(counts))])
    several = counts[index] > 1
    count = counts[index, None].clamp(min=2)
    own = (count * centres[index] - clean) / (count - 1)
    distance = torch.cdist(clean, centres)
    distance[torch.arange(len(y)), index] = torch.inf
    distance[:, counts < 2] = torch.inf
    nearest = distance.min(1)
    usable = several & nearest.values.isfinite()
    line = centres[nearest.indices] - own
    length = line.square().sum(1)
    usable &= length > 0
    return {name: ((x - own) * line).sum(1)[usable] / length[usable] for name, x in every.items()}


@dataclass(frozen=True)
class BetweenClasses(Instrument):
    """Where images lie between the centre of their own class and that of the nearest other class.

    Copies are made for the deployed network, by PGD within l-infinity; :func:`positions` says how they are placed. The
    interval is over images; the centres are taken as they are.

    Args:
        eps: radius of the copies in [0, 1] pixel units.
        steps: gradient steps, of length eps if there is one, else 2.5 eps / steps.
    """

    eps: float = 8 / 255
    steps: int = 1
    name: ClassVar[str] = "between"
    title: ClassVar[str] = "Where easy and adversarial images lie"
    reads: ClassVar[str] = (
        "Position between the centre of an image's own class (0) and that of the nearest other class (1), along the "
        "line through both; 0.5 is midway. Centres are means of clean images; intervals are over images."
    )
    order: ClassVar[int] = 25
    images: ClassVar[int] = 500
    plots: ClassVar[Sequence[Plot]] = (
        Plot(POSITION, "adversarial copies", y="position", series=ADVERSARIAL),
        Plot(POSITION, "clean images", y="position", series=CLEAN),
        Plot(POSITION, "easy copies", y="position", series=EASY),
    )

    def __post_init__(self) -> None:
        self._copies()  # raises for what is out of range

    def _copies(self) -> PGD:
        return PGD(Linf(self.eps), steps=self.steps)

    def measure(self, subject: Subject, on_progress: OnProgress = silent) -> list[Measured]:
        images, y = clean_and_copies(subject, self._copies())
        layers = default_layers(subject.model)
        streams = [features(subject.model, batches, layers) for batches in images.values()]
        found = []
        for states in zip(*streams, strict=True):
            clean, *copies = (state.flat.to(subject.device) for state in states)
            named = dict(zip(list(images)[1:], copies, strict=True))
            for series, values in positions(clean, named, y).items():
                if not len(values):
                    raise ValueError(f"{self.name} needs two classes with two images each: take more images")
                at = states[0]
                found.append(Measured(POSITION, series, at.layer, at.depth, len(values), *mean_interval(values)))
            on_progress(states[0].depth + 1, max(len(layers) + 2, states[0].depth + 1), "layers")
        return found

    @classmethod
    def sentence(cls, measured: Mapping[str, Sequence[Measured]]) -> str:
        """How far an attack moves the logits towards the other class, most and least."""
        moved = {}
        for label, values in measured.items():
            at = {(each.series, each.place): each.value for each in values if each.measure == POSITION}
            if {(CLEAN, "logits"), (ADVERSARIAL, "logits")} <= at.keys():
                moved[label] = (at[CLEAN, "logits"], at[ADVERSARIAL, "logits"])
        if not moved:
            return ""
        order = sorted(moved, key=lambda label: moved[label][1] - moved[label][0])
        told = [f"{label} from {figure(moved[label][0])} to {figure(moved[label][1])}" for label in order]
        ends = f"{told[-1]} (most), {told[0]} (least)" if len(told) > 1 else told[0]
        return f"On their way to the next class the attack moves images in the logits: {ends}."
