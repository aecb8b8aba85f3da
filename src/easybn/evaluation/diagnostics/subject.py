"""What a check is given, a :class:`Subject`, and what it returns, :class:`Finding` objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attacks.attack_mode import TargetModel
from ...attacks.losses import margin
from ...perturb.ball import L2, Ball
from ..points import check_labels
from ..record import Record
from ..result import Evaluation

if TYPE_CHECKING:
    from .label_order import LabelOrder

Severity = Literal["warning", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """What a check says.

    Args:
        name: of the check, such as "saturation".
        severity: "warning" where the figures cannot be trusted, "note" for what a reader should know, "ok" where
            the check was made and all is well.
        what: the fact, without its size.
        how_much: the size, with the bound that it is compared with.
        why: what it does to the evaluation; empty for "ok".
        remedy: what to do about it; empty for "ok".
    """

    name: str
    severity: Severity
    what: str
    how_much: str
    why: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """One line: ``warning  saturation: what: how much. Why. Remedy.``"""
        return f"{self.severity:7}  {self.line}"

    @property
    def line(self) -> str:
        """The same without the severity."""
        parts = [f"{self.what}: {self.how_much}" if self.how_much else self.what, self.why, self.remedy]
        sentences = [part[0].upper() + part[1:] for part in (" ".join(part.split()) for part in parts) if part]
        return f"{self.name}: {' '.join(f'{sentence}.' for sentence in sentences)}"

    @property
    def fine(self) -> bool:
        """Whether the check was made and all is well."""
        return self.severity == "ok"


def share(count: int, n: int, of: str = "points") -> str:
    """A count in words: "12 of 1,000 points (1.2%)"."""
    return f"{count:,} of {n:,} {of} ({count / max(n, 1):.1%})"


FEW_POINTS = 2
"""A difference of fewer points may be luck."""
DROP = 0.002
"""Loss of robust accuracy by a weaker attack that AutoAttack flags (checks.py, check_square_sr)."""
GRADIENT_POINTS = 256
"""Points whose gradient is taken; all the points under ``thorough``."""


class Slope(NamedTuple):
    """The model's answers to n images when their gradient is asked for.

    Args:
        logits: (n, K), float32, on the CPU.
        gradient: (n, ...), of the float32 cross-entropy of the true class, on the CPU; None if there is none at all.
    """

    logits: Tensor
    gradient: Tensor | None


@dataclass
class Subject:
    """One diagnosis.

    Args:
        ready: from ``attack_mode``, without a fast copy: the checks are about the model itself.
        x: images in [0, 1], (n, ...), those drawn for the checks.
        y: their classes, int64 (n,), on the CPU.
        rows: int64 (n,), ascending: their positions among the points of ``evaluation``.
        ball: of the largest eps.
        radii: every eps, ascending.
        evaluation, record: of all points, or None.
        batch_size: images a pass at most.
        thorough: more points and more steps.
    """

    ready: TargetModel
    x: Tensor
    y: Tensor
    rows: Tensor
    ball: Ball
    radii: Sequence[float]
    evaluation: Evaluation | None = None
    record: Record | None = None
    batch_size: int = 256
    thorough: bool = False

    @property
    def n(self) -> int:
        """Number of points drawn."""
        return len(self.x)

    @property
    def norm(self) -> str:
        """``linf`` or ``l2``."""
        return "l2" if isinstance(self.ball, L2) else "linf"

    @torch.no_grad()
    def classify(self, x: Tensor, batch_size: int | None = None) -> Tensor:
        """(m, K) float32 logits of ``x`` (m, ...), in any units, on the CPU; they may be NaN."""
        batches = torch.split(x, batch_size or self.batch_size)
        return torch.cat([self.ready.original(self.ready.load(batch)).float().cpu() for batch in batches])

    def right(self, x: Tensor, y: Tensor) -> Tensor:
        """bool (m,): ``x`` (m, ...) is classified as ``y`` (m,); NaN is not."""
        logits = self.classify(x)
        return (logits.argmax(1) == y) & ~logits.isnan().any(1)

    def slope(self, x: Tensor, y: Tensor) -> Slope:
        """The gradient at ``x`` (m, ...) of the cross-entropy of the classes ``y`` (m,)."""
        logits, gradients = [], []
        for batch, label in zip(torch.split(x, self.batch_size), torch.split(y, self.batch_size), strict=True):
            point = self.ready.load(batch).requires_grad_()
            said = self.ready.original(point)
            logits.append(said.detach().float().cpu())
            if said.requires_grad:
                loss = F.cross_entropy(said.float(), label.to(said.device), reduction="sum")
                (gradient,) = torch.autograd.grad(loss, point, allow_unused=True)
                if gradient is not None:
                    gradients.append(gradient.cpu())
        return Slope(torch.cat(logits), torch.cat(gradients) if len(gradients) == len(logits) else None)

    @cached_property
    def broken(self) -> Tensor:
        """bool (n,): the clean logits are NaN or +inf; -inf is how classes are masked."""
        return (self._clean.isnan() | self._clean.isposinf()).any(1)

    @cached_property
    def _clean(self) -> Tensor:
        return self.classify(self.x)

    @cached_property
    def logits(self) -> Tensor:
        """(n, K) float32 clean logits on the CPU; ValueError if they are not finite or do not fit the labels."""
        if broken := int(self.broken.sum()):
            raise ValueError(f"the model's logits are NaN or infinite for {broken} of {self.n} images")
        check_labels(self.y, self._clean.shape[1])
        return self._clean

    @cached_property
    def margins(self) -> Tensor:
        """(n,) float64: the true logit minus the largest other one."""
        return -margin(self.logits, self.y)

    @cached_property
    def correct(self) -> Tensor:
        """bool (n,): classified correctly as they are."""
        return self.logits.argmax(1) == self.y

    @cached_property
    def order(self) -> "LabelOrder | None":
        """Another order of the labels that explains the model's answers, if there is one."""
        from .label_order import label_order

        return label_order(self.logits.argmax(1).numpy(), self.y.numpy(), self.logits.shape[1])

    @cached_property
    def intended(self) -> Tensor:
        """int64 (n,): the classes that the labels seem to mean."""
        return self.y if self.order is None else torch.as_tensor(self.order.output)[self.y]

    @cached_property
    def some(self) -> int:
        """How many of the points, from the first on, are used where gradients are taken."""
        return self.n if self.thorough else min(self.n, GRADIENT_POINTS)

    @cached_property
    def clean_slope(self) -> Slope:
        """At the first ``some`` points; once the labels are known to fit."""
        check_labels(self.y, self.logits.shape[1])
        return self.slope(self.x[: self.some], self.y[: self.some])
