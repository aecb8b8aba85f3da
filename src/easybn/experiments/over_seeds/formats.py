"""A table as Markdown, LaTeX or CSV; for the terminal, see :mod:`.terminal`."""

import csv
import io
import re
from collections.abc import Callable

from .layout import Cell, Table
from .terminal import terminal

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
