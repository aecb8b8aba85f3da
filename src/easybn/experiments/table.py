"""The paper's table from the scores of runs: clean accuracy and PGD-l2 at each eps, under either protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ..evaluation.interval import accuracy_interval
from .run import Run

TITLES = {
    "robustness": "PGD as the `robustness` library computes it (the paper's columns)",
    "strong": "PGD, strong protocol (float64 losses, cross-entropy and margin, any misclassified iterate)",
}


@dataclass(frozen=True)
class Cell:
    """An accuracy with its 95% interval, in percent when shown."""

    correct: int
    n: int

    @property
    def half_width(self) -> float:
        low, high = accuracy_interval(self.correct, self.n)
        return (high - low) / 2

    def __str__(self) -> str:
        return f"{100 * self.correct / self.n:.2f} ±{100 * self.half_width:.1f}"


@dataclass(frozen=True)
class Block:
    """One table: a protocol, its columns and a row a run."""

    protocol: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    caption: str

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(title=TITLES.get(self.protocol, self.protocol), caption=self.caption, title_justify="left")
        table.add_column("Model")
        for column in self.columns:
            table.add_column(column, justify="right")
        for name, cells in self.rows:
            table.add_row(name, *("" if cell is None else str(cell) for cell in cells))
        return table

    def markdown(self) -> str:
        """For a README."""
        lines = [f"**{TITLES.get(self.protocol, self.protocol)}**", "", "| Model | " + " | ".join(self.columns) + " |"]
        lines.append("| --- |" + " ---: |" * len(self.columns))
        for name, cells in self.rows:
            lines.append(f"| {name} | " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
        return "\n".join([*lines, "", self.caption, ""])


def blocks(runs: Sequence[Run]) -> list[Block]:
    """A block for each protocol found in the runs' scores (with clean accuracy alone if there is none)."""
    titles = [title(run) for run in runs]
    names = [t if titles.count(t) == 1 else f"{t} {run.folder.name}" for t, run in zip(titles, runs, strict=True)]
    rows = [(name, run.scores) for name, run in zip(names, runs, strict=True)]
    found = {row["protocol"]: None for _, scores in rows for row in scores if row["attack"] == "pgd"}
    return [_block(protocol, rows) for protocol in sorted(found)] or [_block("clean", rows)]


def title(run: Run) -> str:
    """``resnet18 (EBN)``, as the paper writes its rows."""
    config = run.config
    return f"{config['model']} ({config['recipe']['class'].rpartition('.')[2]})"


def _block(protocol: str, rows: Sequence[tuple[str, list[dict[str, Any]]]]) -> Block:
    def clean(row: dict[str, Any]) -> bool:
        return row["attack"] == "clean"

    def attacked(row: dict[str, Any]) -> bool:
        return row["attack"] == "pgd" and row["protocol"] == protocol

    radii = sorted({(row["norm"], row["eps"]) for _, scores in rows for row in scores if attacked(row)})
    tested: list[dict[str, Any]] = []  # the rows shown: the latest where something was measured twice
    every: list[dict[str, Any]] = []
    body: list[tuple[str, list[Cell | None]]] = []
    for name, scores in rows:
        basic = [row for row in scores if clean(row)][-1:]
        shown = {(row["norm"], row["eps"]): row for row in scores if attacked(row)}
        tested += basic
        every += shown.values()
        cells = [_cell(basic[0] if basic else None), *(_cell(shown.get(radius)) for radius in radii)]
        body.append((name, cells))
    caption = "Accuracy in % with the half-width of its 95% interval (Wilson)."
    caption += f" Basic: {_list(tested, 'n')} test images." if tested else " Nothing is measured yet: easybn evaluate."
    if every:
        caption += f" Attacks: {_list(every, 'steps')} steps, {_list(every, 'n')} test images"
        caption += f", batch size {_list(every, 'batch_size')}." if protocol == "robustness" else "."
    return Block(protocol, ["Basic", *(f"{norm} {eps:g}" for norm, eps in radii)], body, caption)


def _cell(row: dict[str, Any] | None) -> Cell | None:
    return None if row is None else Cell(row["correct"], row["n"])


def _list(rows: Sequence[dict[str, Any]], key: str) -> str:
    return " / ".join(f"{value:,}" for value in sorted({row[key] for row in rows}))
