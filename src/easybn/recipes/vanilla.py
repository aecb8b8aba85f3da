"""Vanilla: plain training, which every other recipe is compared with."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .recipe import Context, Recipe, Term


@dataclass(frozen=True)
class Vanilla(Recipe):
    """Empirical risk minimisation: cross-entropy on the clean images.

    Cost: 1 pass (as much arithmetic as 3 forward passes). The paper's tables do not have this row.

    Args:
        weight: factor of the loss; 0.5 is the control for recipes whose clean loss has that weight.
        label_smoothing: in [0, 1).
    """

    weight: float = 1.0
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main",)
    order: ClassVar[int] = 0
    colour: ClassVar[tuple[str, str] | None] = ("#66707c", "#a9b4c0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        yield Term.cross_entropy("main", model(x.clone()), y, self.weight, self.label_smoothing)
