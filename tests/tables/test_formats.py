"""A table in every format: nothing is lost, and markup in a name is text."""

import csv
import io
from html.parser import HTMLParser

import pytest
from rich.console import Console

from easybn.paper.columns import OURS
from easybn.paper.tables import paper_table
from easybn.tables.comparison import differences_table
from easybn.tables.formats import as_csv, column_widths, html, latex, markdown, terminal, tex
from easybn.tables.table import Cell, Table, TableRow

NASTY = Table(
    "A | B <b>",
    "Row",
    ["a_b", "50%"],
    [
        TableRow("[red]x & y", [Cell("*1*", 1.0, bold=True), Cell("\N{MINUS SIGN}2 ±1", -2.0, -3.0, -1.0, 3, 200)]),
        TableRow("paper", [Cell("3"), Cell()], muted=True),
    ],
    "see #1",
)


def test_markdown_keeps_its_columns_and_shows_markup_as_text():
    lines = markdown(NASTY).splitlines()
    assert lines[0] == "**A \\| B &lt;b&gt;**"
    assert lines[2:] == [
        "| Row | a_b | 50% |",
        "| --- | ---: | ---: |",
        "| \\[red\\]x &amp; y | **\\*1\\*** | \N{MINUS SIGN}2 ±1 |",
        "| *paper* | 3 |  |",
        "",
        "see #1",
    ]


def test_latex_escapes():
    text = latex(NASTY)
    assert r"[red]x \& y & \textbf{*1*} & $-$2 $\pm$1 \\" in text
    assert r"Row & a\_b & 50\% \\" in text
    assert r"\begin{tabular}{lrr}" in text
    assert tex("a\\b{c}~^<>") == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"


def test_csv_has_a_line_a_figure():
    rows = list(csv.DictReader(io.StringIO(as_csv(NASTY))))
    assert len(rows) == 3  # the empty cell is none
    expected = {
        "table": "A | B <b>",
        "row": "[red]x & y",
        "column": "50%",
        "text": "\N{MINUS SIGN}2 ±1",
        "value": "-2",
        "low": "-3",
    }
    assert rows[1] == {**expected, "high": "-1", "seeds": "3", "n": "200", "bold": "0"}


def test_the_terminal_shows_brackets_as_they_are():
    assert "[red]x & y" in terminal(NASTY, Console(width=80))


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_the_terminal_cuts_no_figure(setting, width):
    for table in (paper_table(setting), differences_table(setting, OURS)):
        text = terminal(table, Console(width=width))
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        found = [word for word in text.replace("│", " ").split() if word[0].isdigit()]
        figures = [cell.text for line in table.rows for cell in line.cells]
        assert not {word for text in figures for word in text.split() if word[0].isdigit()} - set(found)
    parts = column_widths(paper_table(setting), width)
    assert [i for part in parts for i in part if i >= 0] == list(range(len(paper_table(setting).columns)))
    assert (len(parts) == 1) is (width == 300)
    told = [list(part)[:2] for part in column_widths(differences_table(setting, OURS), width)]
    assert told == [[-1, 0]] * len(told)  # which recipes and which column, in every part


class Html(HTMLParser):
    """The texts of the cells, row by row, and the attributes of each."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.about, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.about.append(dict(attrs))
            self._inside = True
        else:
            assert tag in ("div", "table", "thead", "tbody", "button", "strong")

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.rows[-1][-1] += data


def test_html_has_every_cell_as_text_and_its_number_to_sort_by():
    page = Html(html(NASTY))
    assert page.rows == [
        [NASTY.corner, *NASTY.columns],
        *([row.label, *(cell.text for cell in row.cells)] for row in NASTY.rows),
    ]
    values = [str(cell.value) for row in NASTY.rows for cell in row.cells if cell.value is not None]
    assert [about["data-value"] for about in page.about if "data-value" in about] == values
    assert html(NASTY).count("<strong>") == sum(cell.bold for row in NASTY.rows for cell in row.cells)


def test_a_drawing_follows_its_column():
    table = Table(
        "t", "Run", ["difference", "p"], [TableRow("a", [Cell("1"), Cell("2")]), TableRow("b", [Cell(), Cell()])]
    )
    page = Html(html(table, drawings={"difference": ["x", "y"]}))
    assert page.rows == [["Run", "difference", "95% interval", "p"], ["a", "1", "x", "2"], ["b", "", "y", ""]]


def test_notes_follow_the_caption_in_every_text():
    table = Table("t", "Run", ["p"], [TableRow("a", [Cell("1")])], "caption", notes=["1. first", "2. second"])
    assert markdown(table).endswith("\n\ncaption\n\n1. first\n2. second\n")
    assert r"\caption{t. caption 1. first 2. second}" in latex(table)
    assert terminal(table).split("caption")[1].split() == ["1.", "first", "2.", "second"]
