"""The formats of a table: terminal, Markdown, LaTeX, CSV, HTML.

A table that is too wide for the terminal is shown in parts, one below the other, and nothing in it is cut: numbers stay
on one line, text is wrapped, and a word is split only where it is longer than all the room there is.
"""

import csv
import html as html_module
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from ..escapes import escaped
from ..terminal import Terminal
from .table import Cell, Table, TableRow

# The terminal.

PADDING = 3  # characters that a column takes beside its text: two spaces and a line
TEXT_SHARE = 4  # a column of text is wrapped only where it takes more than the width divided by this
NARROW = 8  # a column of text is not made narrower than this many characters


@dataclass(frozen=True)
class Fitted:
    """A table that rich shows at any width: ``console.print(Fitted(table))``, or in a live display."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, parts = self.table, column_widths(self.table, options.max_width)
        wrapped = options.update(no_wrap=False, overflow="fold")  # whatever the console does with lines of text
        for number, widths in enumerate(parts, 1):
            title = table.title + (f" ({number} of {len(parts)})" if len(parts) > 1 else "")
            if title:
                yield from console.render(Text(title, style="italic"), wrapped)
            yield from console.render(_rich_table(table, widths), wrapped)
        if table.caption:
            yield from console.render(Text(table.caption, style="dim italic"), wrapped)
        for note in table.notes:
            yield from console.render(Text(note), wrapped)


def show(table: Table, console: Console) -> None:
    """Print a table, also on a console that leaves the wrapping of long lines to the terminal."""
    console.print(Fitted(table), soft_wrap=False, crop=False)


def terminal(table: Table, console: Console | None = None) -> str:
    """Text of the terminal's width, with colours if ``console`` has any.

    Columns that do not fit beside each other follow in further parts; each part repeats the row labels.
    """
    console = console or Terminal()
    with console.capture() as captured:
        show(table, console)
    return captured.get()


def column_widths(table: Table, width: int) -> list[dict[int, int]]:
    """The columns in as many parts as a terminal of ``width`` characters needs, as {number of the column: its width}.

    Each part begins with the row labels, numbered -1, and with the columns of text before the first of numbers.
    """
    columns = [
        _Width.of(heading, [row.cells[i].text for row in table.rows], table.is_number[i], width)
        for i, heading in enumerate(table.columns)
    ]
    first_number = [*table.is_number, True].index(True)
    repeated = first_number if first_number < len(columns) else 0  # without numbers, the labels are enough
    leading = {-1: _Width.of(table.corner, [row.label for row in table.rows], False, width)}
    leading |= dict(enumerate(columns[:repeated]))
    needed = [
        max((cell_len(row.cells[i].text) for row in table.rows), default=0) if table.is_number[i] else NARROW
        for i in range(repeated, len(columns))
    ]
    _narrow(leading, width - 1 - max(needed, default=0) - PADDING)
    parts = [dict(leading)]
    for i, column in enumerate(columns[repeated:], repeated):
        column = column.limited(max(1, width - _total(leading) - PADDING))
        if len(parts[-1]) > len(leading) and _total(parts[-1]) + column.least + PADDING > width:
            parts.append(dict(leading))
        parts[-1][i] = column
    return [_widened(part, width - _total(part)) for part in parts]


@dataclass(frozen=True)
class _Width:
    """The number of characters that a column needs at least, and the number that it would fill."""

    least: int
    most: int

    @classmethod
    def of(cls, heading: str, cells: Sequence[str], is_number: bool, width: int) -> "_Width":
        """Numbers stay on one line; text may be wrapped in a terminal of ``width`` characters."""
        most = max(map(cell_len, [heading, *cells]))
        words = [word for text in [heading, *([] if is_number else cells)] for word in text.split()]
        unbroken = max(map(cell_len, cells), default=0) if is_number else min(most, width // TEXT_SHARE)
        return cls(max([1, unbroken, *map(cell_len, words)]), max(most, 1))

    def limited(self, room: int) -> "_Width":
        """At most ``room`` characters."""
        return _Width(min(self.least, room), min(self.most, room))


def _narrow(columns: dict[int, _Width], room: int) -> None:
    """Make the widest of ``columns`` narrower until all of them fit into ``room``."""
    while sum(column.least + PADDING for column in columns.values()) > room:
        widest = max(columns, key=lambda i: columns[i].least)
        if columns[widest].least <= NARROW:
            return
        columns[widest] = replace(columns[widest], least=columns[widest].least - 1)


def _total(part: Mapping[int, _Width]) -> int:
    return 1 + sum(column.least + PADDING for column in part.values())


def _widened(part: Mapping[int, _Width], spare: int) -> dict[int, int]:
    """The widths of a part's columns: the first that can use the spare characters get them."""
    widths = {}
    for i, column in part.items():
        extra = max(0, min(spare, column.most - column.least))
        widths[i] = column.least + extra
        spare -= extra
    return widths


def _rich_table(table: Table, widths: Mapping[int, int]) -> RichTable:
    drawn = RichTable()
    for i, width in widths.items():
        heading, is_number = (table.corner, False) if i < 0 else (table.columns[i], table.is_number[i])
        drawn.add_column(Text(heading), justify="right" if is_number else "left", width=width, overflow="fold")
    for row in table.rows:
        style = "dim italic" if row.muted else ""
        cells = [row.cells[i] for i in widths if i >= 0]
        texts = [Text(cell.text, style="bold" if cell.bold else cell.style or style) for cell in cells]
        drawn.add_row(Text(row.label, style=style), *texts)
    return drawn


# Markdown.


def markdown(table: Table) -> str:
    """For a README: characters with a meaning in Markdown or HTML are escaped."""
    rule = ["---", *("---:" if is_number else "---" for is_number in table.is_number)]
    lines = [f"**{_md(table.title)}**", ""] if table.title else []
    lines += [_md_row(map(_md, [table.corner, *table.columns])), _md_row(rule)]
    for row in table.rows:
        cells = [f"**{_md(cell.text)}**" if cell.bold else _md(cell.text) for cell in row.cells]
        lines.append(_md_row([f"*{_md(row.label)}*" if row.muted else _md(row.label), *cells]))
    lines += ["", _md(table.caption)] if table.caption else []
    lines += ["", *map(_md, table.notes)] if table.notes else []
    return "\n".join([*lines, ""])


def _md(text: str) -> str:
    marked = {letter: f"\\{letter}" for letter in "\\|*`[]"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "}
    return "".join(marked.get(letter, letter) for letter in text)


def _md_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# LaTeX.

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_TEX |= {">": r"\textgreater{}", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MINUS SIGN}": "$-$", "→": r"$\rightarrow$"}
_TEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def latex(table: Table) -> str:
    """A ``table`` environment with the rules of booktabs."""
    align = "l" + "".join("r" if is_number else "l" for is_number in table.is_number)
    caption = " ".join([f"{table.title}. {table.caption}", *table.notes])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(caption)}}}"]
    headings = " & ".join(map(tex, [table.corner, *table.columns]))
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule", rf"{headings} \\", r"\midrule"]
    for row in table.rows:
        cells = [rf"\textbf{{{tex(cell.text)}}}" if cell.bold else tex(cell.text) for cell in row.cells]
        label = rf"\textit{{{tex(row.label)}}}" if row.muted else tex(row.label)
        lines.append(" & ".join([label, *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def tex(text: str) -> str:
    """Any text, escaped for LaTeX."""
    return "".join(_TEX.get(letter, letter) for letter in text)


# CSV.


def as_csv(table: Table) -> str:
    """One line per cell: table, row, column, text, value, low, high, seeds, n, bold."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "column", "text", "value", "low", "high", "seeds", "n", "bold"])
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell.text:
                writer.writerow([*map(_no_formula, (table.title, row.label, column)), *_csv_cell(cell)])
    return out.getvalue()


def _csv_cell(cell: Cell) -> list[object]:
    text = _no_formula(cell.text) if cell.value is None else cell.text
    numbers = ["" if number is None else f"{number:.6g}" for number in (cell.value, cell.low, cell.high)]
    return [text, *numbers, cell.seeds or "", cell.n or "", int(cell.bold)]


def _no_formula(text: str) -> str:
    """Text that no spreadsheet takes for a formula, as it would a name that begins with = or @."""
    return f"'{text}" if re.match(r"[=@+\-\t\r]", text) else text


# HTML.

MANY = 6  # a table of more columns is set smaller
LONG = 44  # a text of more characters is given room to wrap


def html(
    table: Table,
    label: Callable[[TableRow], str] | None = None,
    drawings: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """A ``table`` element; the headings are buttons, for a script that sorts by ``data-value``.

    Args:
        label: HTML of a row's label; by default the escaped text.
        drawings: for the headings of some columns, HTML for each row that is shown in a cell behind that column's.
    """
    drawings = drawings or {}
    head = [f'<th scope="col"><button type="button">{_html(table.corner or "No.")}</button></th>']
    for heading, is_number in zip(table.columns, table.is_number, strict=True):
        head.append(
            f'<th scope="col"{_class("n", is_number)}><button type="button">{_html(heading)}</button></th>'
            + ('<th scope="col">95% interval</th>' if heading in drawings else "")
        )
    body = []
    for number, row in enumerate(table.rows):
        body.append(f'<tr{_class("muted", row.muted)}><th scope="row">{label(row) if label else _html(row.label)}</th>')
        for heading, is_number, cell in zip(table.columns, table.is_number, row.cells, strict=True):
            kind = _class("n") if is_number else _class("long", len(cell.text) > LONG)
            value = "" if cell.value is None else f' data-value="{cell.value}"'
            text = f"<strong>{_html(cell.text)}</strong>" if cell.bold else _html(cell.text)
            shade = "" if cell.heat is None else f' style="--heat:{cell.heat:.3f}"'
            body.append(f"<td{kind}{value}{shade}>{text}</td>")
            if heading in drawings:
                body.append(f'<td class="mini">{drawings[heading][number]}</td>')
        body.append("</tr>")
    scroll = "scroll many" if len(table.columns) > MANY else "scroll"
    return "\n".join(
        [
            f'<div class="{scroll}" tabindex="0" role="region" aria-label="{_html(table.title)}"><table>',
            f"<thead><tr>{''.join(head)}</tr></thead><tbody>",
            *body,
            "</tbody></table></div>",
        ]
    )


def _class(name: str, wanted: bool = True) -> str:
    return f' class="{name}"' if wanted else ""


def _html(text: str) -> str:
    return html_module.escape(escaped(text))


FORMATS: dict[str, Callable[[Table], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "latex": latex,
    "csv": as_csv,
}
