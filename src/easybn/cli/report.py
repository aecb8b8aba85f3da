"""One HTML page about a folder of runs: claims, tables, curves, pictures, and how each run was made.

It is made from rows alone (configs, metrics, scores, verdicts, summaries), holds everything in one file, asks the
network for nothing, and can be read on a phone, in the dark and on paper. Rows that it could show and does not find are
named with the command that makes them; easybn summarise adds what only a model can tell.

--tables prints the paper's tables 1 and 2 from the runs instead: means over seeds with 95% intervals, a bold cell where
a test supports it, the paper's rows beside ours, and the paired tests.

easybn report runs/cpu -o report.html
easybn report results --tables markdown
easybn report runs/cheap --across epochs
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ..escapes import say
from ..terminal import Terminal
from .arguments import Parser

if TYPE_CHECKING:
    from ..tables.table import Table

FORMATS = ["terminal", "markdown", "latex", "csv"]
ACROSS = ["epochs", "batch_size", "train_images", "validation"]


def configure(parser: Parser) -> None:
    parser.add_argument("folder", type=str, help="of run folders, and of stacked experiments")
    parser.add_argument("-o", "--out", type=str, default="report.html", help="the HTML file")
    parser.add_argument("--title", type=str, default=None, help="of the page; by default the folder's name")
    add_across(parser)
    parser.add_argument("--tables", choices=FORMATS, default=None, help="print the paper's tables instead")


def run(arguments: Namespace) -> None:
    if arguments.tables:
        print_tables(arguments.folder, arguments.tables, arguments.across)
        return
    from ..files import write_text
    from ..report.page import report

    html, out = report(arguments.folder, arguments.title or "", arguments.across), Path(arguments.out)
    write_text(out, html)
    Terminal(soft_wrap=True).print(f"{out}: {len(html.encode()) / 1e6:.2f} MB")


def add_across(parser: Parser) -> None:
    parser.add_argument(
        "--across",
        nargs="+",
        choices=ACROSS,
        default=[],
        help="compare recipes that differ in these, too: by default only those that agree in them share a table",
    )


def print_tables(folder: str, how: str, across: Sequence[str] = ()) -> None:
    """The paper's tables from the runs in ``folder``, and the paired tests."""
    from ..paper.numbers import OURS
    from ..paper.tables import paper_table
    from ..tables.aggregate import settings
    from ..tables.comparison import differences_table
    from ..tables.rows import CLEAN, read

    rows = read(folder, across)
    found = [each for each in settings(rows.runs, rows.across) if any(recipe.scores(CLEAN) for recipe in each.recipes)]
    if not found:
        raise ValueError(f"nothing is measured in {folder}: easybn evaluate")
    printed(
        [table for each in found for table in (paper_table(each), differences_table(each, OURS)) if table.rows], how
    )


def printed(tables: "Sequence[Table]", how: str) -> None:
    """Print tables in one of ``FORMATS``."""
    from ..tables import formats

    texts = [formats.FORMATS[how](table) for table in tables]
    if how == "csv":  # one file: its head once
        texts = [texts[0], *(text.partition("\n")[2] for text in texts[1:])]
    say(("" if how == "csv" else "\n").join(texts), end="", drawn=how == "terminal")
