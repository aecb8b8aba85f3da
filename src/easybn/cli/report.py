"""What comes out of a folder of runs: ``easybn report``, ``easybn claims``, and ``easybn summarise`` before them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ..terminal import Terminal
from .arguments import Parser
from .table_format import FORMATS, add_format_option, print_in_format

if TYPE_CHECKING:
    from ..tables.table import Table

ACROSS = ["epochs", "batch_size", "train_images", "validation"]


def configure_report(parser: Parser) -> None:
    parser.add_argument("folder", type=str, help="folder of run folders and of stacked experiments")
    parser.add_argument("-o", "--out", type=str, default="report.html", help="the HTML file")
    parser.add_argument("--title", type=str, default=None, help="title of the page; by default the folder's name")
    _add_across(parser)
    parser.add_argument("--tables", choices=FORMATS, default=None, help="print the paper's tables instead")


def run_report(arguments: Namespace) -> None:
    """Write one HTML page about a folder of runs: claims, tables, curves, pictures, and how each run was made.

    It is made from rows alone (configs, metrics, scores, verdicts, summaries), is one file that loads nothing from the
    network, and reads well on a phone, in dark mode and on paper. Rows that are missing are named with the command that
    makes them; easybn summarise adds what needs the models.

    --tables prints the paper's tables 1 and 2 from the runs instead: means over seeds with 95% intervals, a bold cell
    where a test supports it, the paper's rows beside ours, and the paired tests.

    easybn report runs/cpu -o report.html
    easybn report results --tables markdown
    easybn report runs/cheap --across epochs
    """
    if arguments.tables:
        print_tables(arguments.folder, arguments.tables, arguments.across)
        return
    from ..files import write_text
    from ..report.page import report

    html, out = report(arguments.folder, arguments.title or "", arguments.across), Path(arguments.out)
    write_text(out, html)
    Terminal(soft_wrap=True).print(f"{out}: {len(html.encode()) / 1e6:.2f} MB")


def _add_across(parser: Parser) -> None:
    parser.add_argument(
        "--across",
        nargs="+",
        choices=ACROSS,
        default=[],
        help="compare recipes that differ in these settings too; by default recipes share a table only if they agree",
    )


def print_tables(folder: str, form: str, across: Sequence[str] = ()) -> None:
    """Print the paper's tables from the runs in ``folder``, and the paired tests."""
    print_in_format(paper_tables(folder, across), form)


def paper_tables(folder: str | Path, across: Sequence[str] = ()) -> "list[Table]":
    """The paper's tables from the runs in ``folder``, each with its paired tests."""
    from ..paper.columns import OURS
    from ..paper.tables import paper_table
    from ..tables.aggregate import settings
    from ..tables.comparison import differences_table
    from ..tables.rows import CLEAN, read

    rows = read(folder, across)
    measured = [s for s in settings(rows.runs, rows.across) if any(recipe.scores(CLEAN) for recipe in s.recipes)]
    if not measured:
        raise ValueError(f"nothing is measured in {folder}: easybn evaluate")
    tables = [table for s in measured for table in (paper_table(s), differences_table(s, OURS))]
    return [table for table in tables if table.rows]


def configure_claims(parser: Parser) -> None:
    parser.add_argument("folder", type=str, help="folder of run folders and of stacked experiments")
    _add_across(parser)
    parser.add_argument("--all", action="store_true", help="print every comparison too")
    add_format_option(parser)


def run_claims(arguments: Namespace) -> None:
    """Test the paper's claims on our rows: each with its place in the paper, what supports it here, and the verdict.

    C1 the stacked experiment, C2 clean accuracy, C3 PGD, C4 AutoAttack, C5 both methods against basic training, C6
    hidden states. A verdict follows from the 95% interval of a difference paired by seed: holds, does not hold, or
    undecided at this scale; a claim without measurements says so.

    easybn claims runs/cpu
    easybn claims results --all --format markdown
    """
    from ..paper.claims import judge
    from ..paper.tables import claims_table, claims_text, evidence_table
    from ..tables.rows import read

    judged = judge(read(arguments.folder, arguments.across))
    comparisons = [evidence_table(judged)] if arguments.all else []
    if arguments.format == "terminal":
        Terminal().print(claims_text(judged))
        print_in_format(comparisons, arguments.format)
    else:
        print_in_format([claims_table(judged), *comparisons], arguments.format)


def configure_summarise(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="folders of finished runs, or of folders of runs")
    repeated = "the code that makes the data set of the runs, my.py:make, named again: a stored name runs nothing"
    parser.add_argument("--data", type=str, default=None, help=repeated)


def run_summarise(arguments: Namespace) -> None:
    """Write what the report shows of models beside their runs: summary.json, gallery.png, verdicts.jsonl.

    easybn report reads rows and never models. This step uses each model once: how confident it is of every test image,
    a small gallery of easy and adversarial copies, and which points it gets right. These files take some tens of
    kilobytes per run, so they can be kept where the weights are not. What is there already is not done again.

    easybn summarise runs/cpu
    """
    from ..progress import ProgressBars, progress_display
    from ..runs.summary import summarise
    from .table import find

    runs = [run for run in find(arguments.runs) if (run.folder / "config.json").exists()]
    if unfinished := [run for run in runs if not run.finished]:
        raise FileNotFoundError(f"{unfinished[0].folder} is not finished: run its easybn train again")
    console = Terminal(soft_wrap=True)
    with progress_display() as display:
        for run in runs:
            summarise(run, ProgressBars(display, run.folder.name, "summary"))
    for run in runs:
        console.print(f"{run.folder}/summary.json, gallery.png, verdicts.jsonl")
