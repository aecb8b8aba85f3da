"""The paper's table from the scores of runs: clean accuracy and PGD-l2 at each eps, under either protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ..evaluation.interval import accuracy_interval
from .run import Run

TITLES = {
    "robustness": "PGD-l2 as the `robustness` library computes it (the paper's columns)",
    "strong": "PGD-l2, strong protocol (float64 losses, cross-entropy and margin, any misclassified iterate)",
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
    rows = [(title(run), run.scores) for run in runs]
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

    every = [row for _, scores in rows for row in scores if attacked(row)]
    radii = sorted({(row["norm"], row["eps"]) for row in every})
    body: list[tuple[str, list[Cell | None]]] = []
    for name, scores in rows:
        cells = [_cell([row for row in scores if clean(row)])]
        for norm, eps in radii:
            cells.append(_cell([r for r in scores if attacked(r) and (r["norm"], r["eps"]) == (norm, eps)]))
        body.append((name, cells))
    caption = "Accuracy in % with the half-width of its 95% interval (Wilson). "
    tests = sorted({row["n"] for _, scores in rows for row in scores if clean(row)})
    caption += f"Basic: {_list(tests)} test images."
    if every:
        steps, points = (_list(sorted({row[key] for row in every})) for key in ("steps", "n"))
        caption += f" Attacks: {steps} steps, {points} test images"
        sizes = _list(sorted({row["batch_size"] for row in every}))
        caption += f", batch size {sizes}." if protocol == "robustness" else "."
    return Block(protocol, ["Basic", *(f"{norm} {eps:g}" for norm, eps in radii)], body, caption)


def _cell(rows: list[dict[str, Any]]) -> Cell | None:
    # the latest row counts where something was measured twice, say on more points
    return Cell(rows[-1]["correct"], rows[-1]["n"]) if rows else None


def _list(values: Sequence[Any]) -> str:
    return " / ".join(f"{value:,}" for value in values)
