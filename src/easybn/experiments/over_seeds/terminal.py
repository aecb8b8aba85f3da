"""A table for the terminal: one too wide for it is shown in parts, and no figure is ever cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .layout import Table

BETWEEN = 3  # characters that a column takes beside its text: two spaces and a line
PART = 4  # a column of words may take this part of the width before its lines are broken


@dataclass(frozen=True)
class Width:
    """Characters that a column needs at least, and those it would take."""

    least: int
    most: int

    @classmethod
    def of(cls, head: str, cells: Sequence[str], number: bool, width: int) -> "Width":
        """Of numbers in whole, or of words, which may be broken into lines where the terminal has ``width``."""
        most = max(map(len, [head, *cells]))
        words = [word for text in [head, *([] if number else cells)] for word in text.split()]
        whole = max(map(len, cells), default=0) if number else min(most, width // PART)
        return cls(max([whole, *map(len, words)]), most)


def terminal(table: Table, console: Console | None = None) -> str:
    """As text of the terminal's width, with its colours if ``console`` has any.

    Columns that do not fit beside each other follow in further parts, each with the words that tell the lines apart.
    """
    console = console or Console()
    parts = fitting(table, console.width)
    with console.capture() as captured:
        for number, widths in enumerate(parts, 1):
            title = table.title + (f" ({number} of {len(parts)})" if len(parts) > 1 else "")
            console.print(_drawn(table, widths, title))
        if table.caption:
            console.print(Text(table.caption, style="dim italic"))
    return captured.get()


def fitting(table: Table, width: int) -> list[dict[int, int]]:
    """The columns in as many parts as a terminal of ``width`` characters needs: {number of the column: its width}.

    Each part begins with the names of the lines, -1, and with the columns of words before the first of numbers.
    """
    columns = [
        Width.of(column, [line.cells[i].text for line in table.lines], table.is_number[i], width)
        for i, column in enumerate(table.columns)
    ]
    words = [*table.is_number, True].index(True)
    heads = {-1: Width.of(table.head, [line.name for line in table.lines], False, width)}
    heads |= dict(enumerate(columns[:words]))
    parts = [dict(heads)]
    for i, column in enumerate(columns[words:], words):
        if len(parts[-1]) > len(heads) and _taken(parts[-1]) + column.least + BETWEEN > width:
            parts.append(dict(heads))
        parts[-1][i] = column
    return [_shared(part, width - _taken(part)) for part in parts]


def _taken(part: dict[int, Width]) -> int:
    return 1 + sum(each.least + BETWEEN for each in part.values())


def _shared(part: dict[int, Width], left: int) -> dict[int, int]:
    """What is left of the width goes to the first columns that would take it."""
    out = {}
    for i, each in part.items():
        more = max(0, min(left, each.most - each.least))
        out[i] = each.least + more
        left -= more
    return out


def _drawn(table: Table, widths: dict[int, int], title: str) -> RichTable:
    shown = RichTable(title=Text(title), title_justify="left")
    for i, width in widths.items():
        head, number = (table.head, False) if i < 0 else (table.columns[i], table.is_number[i])
        shown.add_column(Text(head), justify="right" if number else "left", width=width)
    for line in table.lines:
        style = "dim italic" if line.aside else ""
        cells = [line.cells[i] for i in widths if i >= 0]
        texts = [Text(cell.text, style="bold" if cell.bold else style) for cell in cells]
        shown.add_row(Text(line.name, style=style), *texts)
    return shown
