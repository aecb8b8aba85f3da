"""Print the scores of several runs side by side, in the form of the paper's tables.

--paper puts each run beside the paper's row of the same data set and recipe: the paper's number, ours under its
protocol, ours under the strong one, the worst case over all attacks, and a warning where columns contradict each other.

--frontier compares recipes that were run at several strengths, such as several eps: robust against clean accuracy.

--deciles CENSUS compares recipes on the hardest tenth of the test images, the next tenth, and so on, where CENSUS is a
folder of easybn census --split test.

--plot FILE draws accuracy over eps, a curve for each recipe with 95% intervals over seeds; with --frontier the
frontiers, each strength with its name where there is room for it. The numbers that are drawn are in the file too.

easybn table runs/easy-frontier --frontier
easybn table runs/easy-frontier --frontier --apart p
easybn table runs/easy-frontier --frontier --plot frontier.pdf
easybn table runs/cpu --plot curves.svg --panels autoattack
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console

from ..escapes import say
from ..terminal import Terminal
from .arguments import Parser
from .plotting import add_plot_options, check_plot_options, write
from .table_format import add_format_option, print_in_format

if TYPE_CHECKING:
    from ..runs.run import Run
    from ..tables.aggregate import Setting
    from ..tables.table import Table


def configure(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="folders of runs, or of folders of runs")
    add_format_option(parser)
    beside = "each run beside the paper's row of its data set and recipe, with contradictions"
    parser.add_argument("--paper", action="store_true", help=beside)
    frontiers = "differences of the frontiers of clean against robust accuracy, of recipes with several strengths"
    parser.add_argument("--frontier", action="store_true", help=frontiers)
    tenths = "folder of easybn census --split test: which tenth of the test images each recipe helps"
    parser.add_argument("--deciles", type=str, default=None, metavar="CENSUS", help=tenths)
    apart = "with --frontier: numbers that tell recipes apart, not strengths of one, such as p"
    parser.add_argument("--apart", nargs="+", type=str, default=[], help=apart)
    add_plot_options(parser, "accuracy over eps, or the frontiers,")


def run(arguments: Namespace) -> None:
    if len(asked := [name for name in ("frontier", "paper", "deciles") if getattr(arguments, name)]) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]} are two tables: give one of them")
    if arguments.apart and not arguments.frontier:
        raise ValueError("--apart is for --frontier")
    if arguments.plot and (arguments.paper or arguments.deciles):
        raise ValueError("--plot draws accuracy over eps, or frontiers with --frontier: not --paper, not --deciles")
    check_plot_options(arguments)
    if arguments.frontier:
        show_frontiers(arguments)
        return
    if arguments.deciles:
        show_deciles(arguments.runs, arguments.deciles, arguments.format)
        return
    if arguments.plot:
        from ..report.plots import table_plot

        plot = table_plot(_settings(arguments.runs)).only(arguments.panels)
    show_ = show_paper if arguments.paper else show
    show_(Terminal(), find(arguments.runs), arguments.format)
    if arguments.plot:
        write(plot, arguments)


def _settings(folders: Sequence[str]) -> "list[Setting]":
    """The runs in ``folders``, as recipes at several seeds."""
    from ..tables.aggregate import settings
    from ..tables.rows import read

    return settings([run for folder in folders for run in read(folder).runs])


def find(folders: Sequence[str]) -> list["Run"]:
    """The runs, and the evaluations of users' models, in and directly below ``folders``.

    Raises:
        FileNotFoundError: one of them has none.
    """
    from ..runs.description import is_of_another_program
    from ..runs.run import Run

    runs = []
    for folder in map(Path, folders):
        names = ("config.json", "evaluation.json")
        files = [folder / name for name in names if (folder / name).exists()]
        below = [path for name in names for path in folder.glob(f"*/{name}")]
        files += [path for path in below if path.name != "config.json" or not is_of_another_program(path)]
        if not files:
            raise FileNotFoundError(f"no run in {folder}: a run's folder has a config.json")
        runs += [Run(path.parent) for path in sorted(files)]
    return runs


def show(console: Console, runs: Sequence["Run"], form: str = "terminal") -> None:
    """Print the tables of ``runs``."""
    from ..tables.single_runs import score_tables

    _print(console, score_tables(runs), form)


def _print(console: Console, tables: "Sequence[Table]", form: str) -> None:
    """Print tables, on ``console`` if they are for the terminal."""
    from ..tables import formats

    if form != "terminal":
        print_in_format(tables, form)
        return
    for table in tables:
        formats.show(table, console)
        console.print()


def show_paper(console: Console, runs: Sequence["Run"], form: str = "terminal") -> None:
    """Print each of ``runs`` beside the paper's row, and the contradictions inside the paper's tables."""
    from ..paper.columns import beside_the_paper, in_the_paper

    found, others = [], []
    for run in runs:
        try:
            found.append(beside_the_paper(run))
        except KeyError as error:
            others.append(str(error.args[0]))
    _print(console, [*found, in_the_paper()], form)
    if others and form in ("terminal", "markdown"):
        line = f"The paper has no row for: {'; '.join(others)}."
        console.print(line) if form == "terminal" else say(line)


def show_frontiers(arguments: Namespace) -> None:
    """Print the differences of recipes' frontiers in each setting of the runs, and draw them if that is asked for."""
    from ..report.plots import frontier_plot
    from ..tables.frontier import field_names, frontier_table

    folders, apart = arguments.runs, arguments.apart
    found = _settings(folders)
    if unknown := [name for name in apart if name not in field_names(found)]:
        raise ValueError(f"no recipe has a field {unknown[0]!r}; they have {', '.join(field_names(found))}")
    tables = [table for setting in found if (table := frontier_table(setting, apart)).rows]
    if not tables:
        raise ValueError(
            f"{', '.join(folders)}: a frontier needs two recipes with two strengths each (such as eps 4/255 and "
            "8/255), clean accuracy and one attack"
        )
    plot = frontier_plot(found, apart).only(arguments.panels)
    print_in_format(tables, arguments.format)
    if arguments.plot:
        write(plot, arguments)


def show_deciles(folders: Sequence[str], census: str, form: str) -> None:
    """Print what each recipe changes on each tenth of the test images, for the runs in ``folders``."""
    from ..tables.deciles import decile_tables, latest
    from ..tables.rows import read

    rows = read(census).deciles
    if not rows:
        raise FileNotFoundError(f"{census} has no deciles.jsonl: easybn census NAME --split test makes it")
    found = _settings(folders)
    tables = [table for setting in found for table in decile_tables(setting, latest(rows, setting.data))]
    if not tables:
        data = ", ".join(sorted({row["data"] for row in rows}))
        raise ValueError(
            f"nothing to compare: the census is of {data}, and verdicts of at least two recipes on its test images are "
            "needed (easybn evaluate, easybn summarise)"
        )
    print_in_format(tables, form)
