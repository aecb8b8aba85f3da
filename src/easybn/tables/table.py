"""A table for the terminal: one too wide for it is shown in parts, and nothing in it is ever cut.

Every table of every command is shown by this: figures stay whole, words are broken into lines where they are many, and
inside only where one of them is longer than all the room there is.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from ..terminal import Terminal

# A table of text: rows of cells, some bold, with a title and a caption; how it is written is :mod:`.formats`.


@dataclass(frozen=True)
class Cell:
    """A figure as shown, and as a number.

    Args:
        text: what is shown.
        value: by which it is sorted, in the unit of the text.
        low, high: the ends of its interval.
        seeds: of how many seeds; n: of how many points each.
        bold: a test supports that it is the best of its column.
        style: of the terminal, such as "green".
    """

    text: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    n: int = 0
    bold: bool = False
    style: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Line:
    """A row.

    Args:
        name: its head.
        cells: one a column.
        aside: of others, such as the paper: shown muted.
        colour_of: the recipe it is about, if any.
    """

    name: str
    cells: Sequence[Cell]
    aside: bool = False
    colour_of: str = ""


@dataclass(frozen=True)
class Table:
    """Args: head: above the names of the lines; numeric: the columns that hold numbers, all by default."""

    title: str
    head: str
    columns: Sequence[str]
    lines: Sequence[Line]
    caption: str = ""
    numeric: Sequence[bool] | None = None

    @property
    def is_number(self) -> Sequence[bool]:
        """A value a column."""
        return self.numeric or [True] * len(self.columns)


BETWEEN = 3  # characters that a column takes beside its text: two spaces and a line
PART = 4  # a column of words may take this part of the width before its lines are broken
NARROW = 8  # a column of words is not made narrower than that


@dataclass(frozen=True)
class Width:
    """Characters that a column needs at least, and those it would take."""

    least: int
    most: int

    @classmethod
    def of(cls, head: str, cells: Sequence[str], number: bool, width: int) -> "Width":
        """Of numbers in whole, or of words, which may be broken into lines where the terminal has ``width``."""
        most = max(map(cell_len, [head, *cells]))
        words = [word for text in [head, *([] if number else cells)] for word in text.split()]
        whole = max(map(cell_len, cells), default=0) if number else min(most, width // PART)
        return cls(max([1, whole, *map(cell_len, words)]), max(most, 1))

    def within(self, room: int) -> "Width":
        """Of at most ``room`` characters."""
        return Width(min(self.least, room), min(self.most, room))


@dataclass(frozen=True)
class Fitted:
    """A table that rich shows at any width: ``console.print(Fitted(table))``, or in a live display."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, parts = self.table, fitting(self.table, options.max_width)
        plain = options.update(no_wrap=False, overflow="fold")  # whatever the console does with lines of text
        for number, widths in enumerate(parts, 1):
            title = table.title + (f" ({number} of {len(parts)})" if len(parts) > 1 else "")
            if title:
                yield from console.render(Text(title, style="italic"), plain)
            yield from console.render(_drawn(table, widths), plain)
        if table.caption:
            yield from console.render(Text(table.caption, style="dim italic"), plain)


def show(table: Table, console: Console) -> None:
    """Print a table, also on a console that leaves long lines to the terminal."""
    console.print(Fitted(table), soft_wrap=False, crop=False)


def terminal(table: Table, console: Console | None = None) -> str:
    """As text of the terminal's width, with its colours if ``console`` has any.

    Columns that do not fit beside each other follow in further parts, each with the words that tell the lines apart.
    """
    console = console or Terminal()
    with console.capture() as captured:
        show(table, console)
    return captured.get()


def fitting(table: Table, width: int) -> list[dict[int, int]]:
    """The columns in as many parts as a terminal of ``width`` characters needs: {number of the column: its width}.

    Each part begins with the names of the lines, -1, and with the columns of words before the first of numbers.
    """
    columns = [
        Width.of(column, [line.cells[i].text for line in table.lines], table.is_number[i], width)
        for i, column in enumerate(table.columns)
    ]
    first = [*table.is_number, True].index(True)
    words = first if first < len(columns) else 0  # of words alone, the names of the lines are enough
    heads = {-1: Width.of(table.head, [line.name for line in table.lines], False, width)}
    heads |= dict(enumerate(columns[:words]))
    figures = [
        max((cell_len(line.cells[i].text) for line in table.lines), default=0) if table.is_number[i] else NARROW
        for i in range(words, len(columns))
    ]
    _narrow(heads, width - 1 - max(figures, default=0) - BETWEEN)
    parts = [dict(heads)]
    for i, column in enumerate(columns[words:], words):
        column = column.within(max(1, width - _taken(heads) - BETWEEN))
        if len(parts[-1]) > len(heads) and _taken(parts[-1]) + column.least + BETWEEN > width:
            parts.append(dict(heads))
        parts[-1][i] = column
    return [_shared(part, width - _taken(part)) for part in parts]


def _narrow(heads: dict[int, Width], room: int) -> None:
    """Take from the widest of them until all have ``room``."""
    while sum(each.least + BETWEEN for each in heads.values()) > room:
        widest = max(heads, key=lambda i: heads[i].least)
        if heads[widest].least <= NARROW:
            return
        heads[widest] = replace(heads[widest], least=heads[widest].least - 1)


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


def _drawn(table: Table, widths: dict[int, int]) -> RichTable:
    shown = RichTable()
    for i, width in widths.items():
        head, number = (table.head, False) if i < 0 else (table.columns[i], table.is_number[i])
        shown.add_column(Text(head), justify="right" if number else "left", width=width, overflow="fold")
    for line in table.lines:
        style = "dim italic" if line.aside else ""
        cells = [line.cells[i] for i in widths if i >= 0]
        texts = [Text(cell.text, style="bold" if cell.bold else cell.style or style) for cell in cells]
        shown.add_row(Text(line.name, style=style), *texts)
    return shown


# A table as Markdown, LaTeX or CSV; for the terminal, see :mod:`.terminal`.

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_TEX |= {">": r"\textgreater{}", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MINUS SIGN}": "$-$", "→": r"$\rightarrow$"}
_TEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def markdown(table: Table) -> str:
    """For a README; what means something in Markdown or HTML is shown as text."""
    rule = ["---", *("---:" if number else "---" for number in table.is_number)]
    lines = [f"**{_md(table.title)}**", "", _row([table.head, *table.columns]), "| " + " | ".join(rule) + " |"]
    for line in table.lines:
        cells = [f"**{_md(cell.text)}**" if cell.bold else _md(cell.text) for cell in line.cells]
        lines.append("| " + " | ".join([f"*{_md(line.name)}*" if line.aside else _md(line.name), *cells]) + " |")
    return "\n".join([*lines, *(["", _md(table.caption)] if table.caption else []), ""])


def latex(table: Table) -> str:
    """A ``table`` with booktabs' rules."""
    align = "l" + "".join("r" if number else "l" for number in table.is_number)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(f'{table.title}. {table.caption}')}}}"]
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _tex_row([table.head, *table.columns]), r"\midrule"]
    for line in table.lines:
        cells = [rf"\textbf{{{tex(cell.text)}}}" if cell.bold else tex(cell.text) for cell in line.cells]
        name = rf"\textit{{{tex(line.name)}}}" if line.aside else tex(line.name)
        lines.append(" & ".join([name, *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def as_csv(table: Table) -> str:
    """A line a cell: table, row, column, text, value, low, high, seeds, n, bold."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "column", "text", "value", "low", "high", "seeds", "n", "bold"])
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            if cell.text:
                writer.writerow([*map(_plain, (table.title, line.name, column)), *_numbers(cell)])
    return out.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
}


def tex(text: str) -> str:
    """Any text for LaTeX."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def _plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula: a name may begin with = or @."""
    return f"'{text}" if re.match(r"[=@+\-\t\r]", text) else text


def _tex_row(cells: list[str]) -> str:
    return " & ".join(map(tex, cells)) + r" \\"


def _md(text: str) -> str:
    marked = {letter: f"\\{letter}" for letter in "\\|*`[]"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "}
    return "".join(marked.get(letter, letter) for letter in text)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(map(_md, cells)) + " |"


def _numbers(cell: Cell) -> list[object]:
    numbers = ["" if value is None else f"{value:.6g}" for value in (cell.value, cell.low, cell.high)]
    return [
        _plain(cell.text) if cell.value is None else cell.text,
        *numbers,
        cell.seeds or "",
        cell.n or "",
        int(cell.bold),
    ]
