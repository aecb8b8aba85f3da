"""What is asked about the hidden states of a model."""

from dataclasses import dataclass
from typing import Any

from ...perturb.ball import L2, Ball, Linf
from ..evaluated import Evaluated

PERTURBATIONS = ("easy", "untargeted", "noise")


@dataclass(frozen=True)
class Hidden:
    """What is asked of a model.

    Args:
        perturbations: "easy" (toward the true class), "untargeted" (away from it), made for the model itself, and
            "noise" of the same size, the control.
        norm: "linf" or "l2".
        eps: radii in [0, 1] pixel units.
        steps: gradient steps, of length eps for one and 2.5 eps / steps for more.
        images: test images, drawn by ``seed``; all of them if there are no more.
        seed: of the draw, and of the noise.
        layers: module names; by default the blocks, see :func:`easybn.analysis.layers.default_layers`.
        batch_size: images a pass; no result depends on it.
    """

    perturbations: tuple[str, ...] = PERTURBATIONS
    norm: str = "linf"
    eps: tuple[float, ...] = (1 / 255, 8 / 255)
    steps: int = 1
    images: int = 1000
    seed: int = 0
    layers: tuple[str, ...] | None = None
    batch_size: int = 100

    def __post_init__(self) -> None:
        for name, low in (("images", 2), ("steps", 1), ("batch_size", 1)):  # two: one image has no interval
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if unknown := [each for each in self.perturbations if each not in PERTURBATIONS]:
            raise ValueError(f"no perturbation {unknown[0]!r}, there are {', '.join(PERTURBATIONS)}")
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"no norm {self.norm!r}, there are linf and l2")
        for eps in self.eps:
            self.ball(eps)  # its own message

    def ball(self, eps: float) -> Ball:
        """Of the norm asked for."""
        return Linf(eps) if self.norm == "linf" else L2(eps)

    def requests(self, what: Evaluated) -> list[dict[str, Any]]:
        """The keys by which the rows of each perturbation are known again."""
        shared = {
            "data": what.source.name,
            "branch": what.branch,
            "norm": self.norm,
            "images": min(self.images, len(what.source.test)),
            "seed": self.seed,
            "layers": "blocks" if self.layers is None else list(self.layers),
        }
        every = [(each, eps) for eps in self.eps for each in self.perturbations]
        return [
            {**shared, "perturbation": each, "eps": float(eps), "steps": None if each == "noise" else self.steps}
            for each, eps in every
        ]
