"""The paper's claim beside ours: a table for each half, mean and 95% interval over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...evaluation.over_seeds import over_seeds
from ..over_seeds.layout import Cell, Line, Table
from ..over_seeds.terminal import Fitted
from .randomise import HALVES, WAYS
from .settings import Condition

PAPER = {"copy": 0.0, "original": 99.0}
"""What the paper has left of 99.0% when noise is added to either half of stacked cars and trucks, ResNet-18."""

COLUMNS = ("Beside the original", "intact", *WAYS)


@dataclass(frozen=True)
class ClaimTable:
    """What is left when one half is randomised: rows of text, the paper's first."""

    title: str
    rows: list[tuple[str, ...]]

    def rich(self) -> Fitted:
        """For the terminal; the paper's row is set apart."""
        lines = [Line(name, [Cell(text) for text in texts], aside=i == 0) for i, (name, *texts) in enumerate(self.rows)]
        return Fitted(Table(self.title, COLUMNS[0], COLUMNS[1:], lines))

    def markdown(self) -> str:
        """For a README."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS[1:])]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([*lines, ""])


def tables(rows: Sequence[dict[str, Any]]) -> list[ClaimTable]:
    """A table for the randomised copy and one for the randomised original.

    Args:
        rows: of :func:`easybn.experiments.stacked.run.stacked`, at least one training's.
    """
    return [_table(rows, half) for half in HALVES]


def _table(rows: Sequence[dict[str, Any]], half: str) -> ClaimTable:
    conditions = list(dict.fromkeys(Condition(row["copy"], row["eps"], row["steps"]) for row in rows))
    body: list[tuple[str, ...]] = [("the paper: easy", "99.0", f"{PAPER[half]:.1f}", "", "")]
    for condition in conditions:
        ours = [row for row in rows if Condition(row["copy"], row["eps"], row["steps"]) == condition]
        cells = [_cell([row for row in ours if (row["half"], row["how"]) == (None, None)])]
        cells += [_cell([row for row in ours if (row["half"], row["how"]) == (half, how)]) for how in WAYS]
        body.append((str(condition), *cells))
    return ClaimTable(f"The {half} randomised (the paper: 99.0 -> {PAPER[half]:.1f})", body)


def _cell(rows: Sequence[dict[str, Any]]) -> str:
    found = over_seeds([100 * row["accuracy"] for row in rows])
    return f"{found.mean:.1f}" + ("" if found.half_width is None else f" ±{found.half_width:.1f}")


def caption(rows: Sequence[dict[str, Any]]) -> str:
    """What the figures of both tables are of, and how to read them."""
    first, seeds = rows[0], len({row["seed"] for row in rows})
    interval = f"mean over {seeds} seeds with the half-width of its 95% interval (t)" if seeds > 1 else "1 seed"
    return (
        f"Accuracy in %, {interval}; {first['data']}, {' against '.join(first['classes'])}, {first['model']}, "
        f"{first['n']:,} test pairs. A network that reads only the randomised half keeps about 50 under noise, and 0 "
        "when it is swapped with that of the other class; one that does not read it keeps what it had. The paper has "
        "cars against trucks and RN-18, and states neither eps nor steps nor which noise."
    )
