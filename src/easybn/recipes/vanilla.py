"""Vanilla: the clean loss, the row that every other one is compared with."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .recipe import Context, Term


@dataclass(frozen=True)
class Vanilla:
    """Empirical risk minimisation: cross-entropy on the clean images.

    Cost: 1 pass (3 forwards' worth of arithmetic). The paper's tables leave this row out.

    Args:
        weight: factor of the loss; 0.5 is the control for the methods whose clean loss has that weight.
        label_smoothing: in [0, 1).
    """

    weight: float = 1.0
    label_smoothing: float = 0.0
    branches: ClassVar[tuple[str, ...]] = ("main",)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]:
        logits = model(x)
        loss = cross_entropy(logits.float(), y, label_smoothing=self.label_smoothing)
        yield Term("main", loss, self.weight, logits, y)
