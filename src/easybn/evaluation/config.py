"""Which attacks were asked for, and how their result is called."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ..attacks.attack import Attack
from ..attacks.pgd import PGDSweep
from ..attacks.registry import ATTACKS, BALLS, PRESETS, suite
from ..perturb.pgd import PGD
from .record import Record
from .result import Score
from .verdicts import Verdicts

PROTOCOLS = ("strong", "robustness")


@dataclass(frozen=True)
class Choice:
    """The names given to :func:`easybn.evaluate`, and the options of PGD.

    Args:
        names: "clean", "pgd", a preset of AutoAttack ("autoattack" is "standard"), or names of its attacks.
        norm: "l2" or "linf".
        protocol: of pgd, "strong" or "robustness".
        steps: of pgd; step_size: of pgd, default 2.5 * eps / steps; random_start: of pgd.

    Raises:
        ValueError: an unknown name, norm or protocol, or options that do not go together.
    """

    names: tuple[str, ...]
    norm: str = "l2"
    protocol: str = "strong"
    steps: int = 100
    step_size: float | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple("standard" if name == "autoattack" else name for name in self.names))
        known = ["clean", "pgd", "autoattack", *PRESETS, *ATTACKS]
        if unknown := [name for name in self.names if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown attack {unknown[0]!r}{hint}; known: {', '.join(known)}")
        if not self.names or (len(self.names) > 1 and {*self.names} & {"clean", *PRESETS}):
            raise ValueError(f"attacks: one preset, or names of attacks, got {', '.join(self.names) or 'none'}")
        if self.norm not in BALLS:
            raise ValueError(f"unknown norm {self.norm!r}; known: {', '.join(BALLS)}")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}; known: {', '.join(PROTOCOLS)}")
        if self.protocol == "robustness" and self.random_start:
            raise ValueError("the robustness protocol has no random start; the strong one does")

    @property
    def literal(self) -> bool:
        """Whether PGD is to be what the library ``robustness`` does."""
        return self.names == ("pgd",) and self.protocol == "robustness"

    def pgd(self, eps: float) -> PGD:
        """PGD at one radius; ValueError for a radius, steps or a step size that make no sense."""
        size = 2.5 * eps / max(self.steps, 1) if self.step_size is None else self.step_size
        return PGD(BALLS[self.norm](eps), self.steps, size, self.random_start)

    def at(self, eps: float) -> Sequence[Attack]:
        """The attacks at one radius, in order; none if they are not of the common engine."""
        pgd = self.pgd(eps)
        if self.names == ("clean",) or self.literal:
            return []
        if "pgd" not in self.names:
            return suite(self.names, self.norm, eps)
        others = [name for name in self.names if name != "pgd"]
        strong = [PGDSweep(pgd.ball, loss, self.steps, pgd.step_length, self.random_start) for loss in ("ce", "margin")]
        return [*strong, *(suite(others, self.norm, eps) if others else [])]

    def score(self, eps: float, verdicts: Verdicts, record: Record, seed: int, batch_size: int) -> Score:
        """The row of results at one radius."""
        found = record.distance[(record.distance <= eps) & (record.attack != "clean")]
        pgd = self.names == ("pgd",)
        return Score(
            attack="autoattack" if self.names[0] in PRESETS else "+".join(self.names),
            n=len(verdicts.points),
            correct=int(verdicts.robust(eps).sum()),
            protocol=self.names[0] if self.names[0] in PRESETS else "strong" if pgd else None,
            norm=self.norm,
            eps=eps,
            steps=self.steps if pgd else 0,
            step_size=self.pgd(eps).step_length if pgd else None,
            random_start=self.random_start,
            seed=seed if not pgd or self.random_start else None,
            batch_size=min(batch_size, len(verdicts.points)),
            max_perturbation=float(found.max(initial=0.0)),
            non_finite=int(record.non_finite[record.eps == eps].sum()),
            broke=verdicts.broken_by(eps),
        )
