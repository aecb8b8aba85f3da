"""What a run of an attack leaves: a row a try that was begun."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attack import Try

COLUMNS = {
    "row": torch.int64,
    "target": torch.int64,
    "restart": torch.int64,
    "finished": torch.bool,
    "iteration": torch.int64,
    "distance": torch.float64,
    "margin": torch.float64,
    "forwards": torch.int64,
    "backwards": torch.int64,
    "non_finite": torch.int64,
    "zero_gradients": torch.int64,
}


@dataclass(frozen=True)
class Attempts:
    """Tries at n points, in the order of (point, try), all on the CPU.

    Args:
        columns: of R rows each: ``row`` the point, ``target`` the rank of the target class (0 for none),
            ``restart``, ``finished`` (False: given up because another try at the point had succeeded),
            ``iteration`` at which it fell or ended, ``distance`` of its nearest adversarial image (infinite if
            there is none), ``margin`` of the original model there, ``forwards`` and ``backwards`` spent on it,
            gradients that were ``non_finite``, and ``zero_gradients`` throughout.
        nearest: float64 (n,), distance of each point's kept adversarial image, infinite if there is none.
        images: (n, ...), the adversarial images; undefined where ``nearest`` is infinite.
    """

    columns: dict[str, Tensor]
    nearest: Tensor
    images: Tensor

    def fell(self, eps: float) -> Tensor:
        """bool (n,): an adversarial image was found within ``eps``."""
        return self.nearest <= eps

    @classmethod
    def of(cls, ended: dict[str, Tensor], tries: Sequence[Try], nearest: Tensor, images: Tensor) -> "Attempts":
        """From the ended tracks (columns ``row``, ``number``, ``age``, ``reach`` and those of the same name)."""
        if not ended:
            return cls({name: torch.empty(0, dtype=dtype) for name, dtype in COLUMNS.items()}, nearest, images)
        order = torch.argsort(ended["row"] * len(tries) + ended["number"])
        ended = {name: column[order] for name, column in ended.items()}
        number = ended.pop("number")
        found = {
            **ended,
            "target": torch.tensor([each.target for each in tries])[number],
            "restart": torch.tensor([each.restart for each in tries])[number],
            "iteration": ended["age"],
            "distance": ended["reach"],
        }
        return cls({name: found[name].to(dtype) for name, dtype in COLUMNS.items()}, nearest, images)
