"""The scores of several runs side by side, in the form of the paper's tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from .arguments import Parser

if TYPE_CHECKING:
    from ..experiments.run import Run


def configure(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="folders of runs, or of folders of runs")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")


def run(arguments: Namespace) -> None:
    show(Console(), find(arguments.runs), arguments.markdown)


def find(folders: Sequence[str]) -> list["Run"]:
    """The runs, and the evaluations of users' models, in and directly below ``folders``.

    Raises:
        FileNotFoundError: there is none in one of them.
    """
    from ..experiments.run import Run

    runs = []
    for folder in map(Path, folders):
        names = ("config.json", "evaluation.json")
        files = sorted(path for name in names for place in (name, f"*/{name}") for path in folder.glob(place))
        if not files:
            raise FileNotFoundError(f"no run in {folder}: a run's folder has a config.json")
        runs += [Run(path.parent) for path in files]
    return runs


def show(console: Console, runs: Sequence["Run"], markdown: bool = False) -> None:
    """Print the tables of ``runs``."""
    from ..experiments.table import blocks

    for block in blocks(runs):
        if markdown:
            print(block.markdown())
        else:
            console.print(block.rich())
            console.print()
