"""A finding of the diagnosis: one line on what, how much, why it matters and what to do."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["warning", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """What a check says.

    Args:
        name: of the check, such as "saturation".
        severity: "warning" where figures are not to be trusted as they stand, "note" for what a reader should
            know, "ok" where the check was made and all is well.
        what: the fact, without its size.
        how_much: the size, with the bound that it was held against.
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
        """Whether there is nothing to tell."""
        return self.severity == "ok"


def share(count: int, n: int, of: str = "points") -> str:
    """A count as it is told: "12 of 1,000 points (1.2%)"."""
    return f"{count:,} of {n:,} {of} ({count / max(n, 1):.1%})"
