"""The paper's table from the scores of runs: clean accuracy and PGD-l2 at each eps, under either protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..perturb.eps import format_eps
from ..runs.run import Run
from ..stats import accuracy_interval
from . import table as layout
from .table import Fitted, Line

TITLES = {
    "robustness": "PGD as the `robustness` library computes it (the paper's columns)",
    "strong": "PGD, strong protocol (float64 losses, cross-entropy and margin, any misclassified iterate)",
}


def md(text: str) -> str:
    """Any text for a cell of Markdown: what means something there or in HTML is shown as text."""
    marked = {"|": r"\|", "<": "&lt;", ">": "&gt;", "&": "&amp;", "[": r"\[", "]": r"\]", "\n": " "}
    return "".join(marked.get(letter, letter) for letter in text)


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
    """One table: an attack, its columns and a row a run; ``head`` stands above the names of the rows."""

    title: str
    columns: list[str]
    rows: Sequence[tuple[str, Sequence[Cell | str | None]]]
    caption: str
    head: str = "Model"

    def rich(self) -> Fitted:
        """For the terminal."""
        rows = [(name, ["" if cell is None else str(cell) for cell in cells]) for name, cells in self.rows]
        lines = [Line(name, [layout.Cell(text) for text in texts]) for name, texts in rows]
        words = [any(texts[i][:1].isalpha() for _, texts in rows) for i in range(len(self.columns))]
        numeric = [not each for each in words]
        return Fitted(layout.Table(self.title, self.head, self.columns, lines, self.caption, numeric))

    def markdown(self) -> str:
        """For a README."""
        lines = [f"**{md(self.title)}**", "", f"| {md(self.head)} | " + " | ".join(map(md, self.columns)) + " |"]
        lines.append("| --- |" + " ---: |" * len(self.columns))
        for name, cells in self.rows:
            lines.append(
                f"| {md(name)} | " + " | ".join("" if cell is None else md(str(cell)) for cell in cells) + " |"
            )
        return "\n".join([*lines, "", self.caption, ""])


def blocks(runs: Sequence[Run]) -> list[Block]:
    """A block for each attack and protocol found in the runs' scores (with clean accuracy alone if there is none).

    A branch other than the deployed one is a row of its own.
    """
    titles = [title(run) for run in runs]
    names = [t if titles.count(t) == 1 else f"{t} {run.folder.name}" for t, run in zip(titles, runs, strict=True)]
    rows = [each for name, run in zip(names, runs, strict=True) for each in _branches(name, run.scores)]
    attacks = {(row["attack"], row["protocol"]) for _, scores in rows for row in scores if row["attack"] != "clean"}
    order = sorted(attacks, key=lambda each: (each[0] != "pgd", each[0], str(each[1])))
    return [_block(attack, protocol, rows) for attack, protocol in order] or [_block("clean", None, rows)]


def title(run: Run) -> str:
    """``resnet18 (EBN)``, as the paper writes its rows; of a user's model the name of its folder."""
    if not (run.folder / "config.json").exists():
        return run.folder.name
    config = run.config
    return f"{config['model']} ({config['recipe']['class'].rpartition('.')[2]})"


def _branches(name: str, scores: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    found: dict[str, list[dict[str, Any]]] = {"main": []} if not scores else {}
    for row in sorted(scores, key=lambda row: row.get("branch", "main") != "main"):
        found.setdefault(row.get("branch", "main"), []).append(row)
    return [(name if branch == "main" else f"{name}, branch {branch}", rows) for branch, rows in found.items()]


def _block(attack: str, protocol: str | None, rows: Sequence[tuple[str, list[dict[str, Any]]]]) -> Block:
    def attacked(row: dict[str, Any]) -> bool:
        return row["attack"] == attack != "clean" and row["protocol"] == protocol

    radii = sorted({(row["norm"], row["eps"]) for _, scores in rows for row in scores if attacked(row)})
    tested: list[dict[str, Any]] = []  # the rows shown: the latest where something was measured twice
    every: list[dict[str, Any]] = []
    body: list[tuple[str, list[Cell | None]]] = []
    for name, scores in rows:
        basic = [row for row in scores if row["attack"] == "clean"][-1:]
        shown = {(row["norm"], row["eps"]): row for row in scores if attacked(row)}
        tested += basic
        every += shown.values()
        cells = [_cell(basic[0] if basic else None), *(_cell(shown.get(radius)) for radius in radii)]
        body.append((name, cells))
    caption = "Accuracy in % with the half-width of its 95% interval (Wilson)."
    caption += f" Basic: {_list(tested, 'n')} test images." if tested else " Nothing is measured yet: easybn evaluate."
    if every:
        steps = f"{_list(every, 'steps')} steps, " if attack == "pgd" else ""
        caption += f" Attacks: {steps}{_list(every, 'n')} test images"
        caption += f", batch size {_list(every, 'batch_size')}." if protocol == "robustness" else "."
        if any(row.get("budget") for row in every):
            caption += " Within a budget of time: as many points as fitted, drawn at random."
    columns = ["Basic", *(f"{norm} {format_eps(eps, norm)}" for norm, eps in radii)]
    return Block(_title(attack, protocol), columns, body, caption)


def _title(attack: str, protocol: str | None) -> str:
    if attack in ("pgd", "clean"):
        return TITLES.get(str(protocol), str(protocol or attack))
    return f"AutoAttack ({protocol})" if attack == "autoattack" else attack


def _cell(row: dict[str, Any] | None) -> Cell | None:
    return None if row is None else Cell(row["correct"], row["n"])


def _list(rows: Sequence[dict[str, Any]], key: str) -> str:
    return " / ".join(f"{value:,}" for value in sorted({row[key] for row in rows}))
