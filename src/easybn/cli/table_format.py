"""The option ``--format`` of commands that print tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..escapes import say
from .arguments import Parser

if TYPE_CHECKING:
    from ..tables.table import Table

FORMATS = ["terminal", "markdown", "latex", "csv"]


def add_format_option(parser: Parser) -> None:
    """Add the option; what a command says beside its tables is not printed as LaTeX and CSV."""
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="format of the tables")


def print_in_format(tables: "Sequence[Table]", form: str) -> None:
    """Print tables in one of ``FORMATS``."""
    from ..tables import formats

    if not tables:
        return
    texts = [formats.FORMATS[form](table) for table in tables]
    if form == "csv":  # one file with one header
        texts = [texts[0], *(text.partition("\n")[2] for text in texts[1:])]
    say(("" if form == "csv" else "\n").join(texts), end="", drawn=form == "terminal")
