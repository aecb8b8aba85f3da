"""The options ``--plot FILE``, ``--panels`` and ``--dark`` of commands that draw what they print."""

from typing import TYPE_CHECKING

from jsonargparse import Namespace

from ..escapes import say
from .arguments import Parser

if TYPE_CHECKING:
    from ..report.plots import Plot


def add_plot_options(parser: Parser, shows: str) -> None:
    """Add the options; ``shows`` says in a few words what is drawn."""
    group = parser.add_argument_group("plot")
    file = f"draw {shows} into a .png, .svg or .pdf file too; needs pip install 'easybn[plot]'"
    group.add_argument("--plot", type=str, default=None, metavar="FILE", help=file)
    panels = "with --plot: panels whose title has one of these words in it, such as autoattack 'l2 0.5'"
    group.add_argument("--panels", nargs="+", type=str, default=[], help=panels)
    group.add_argument("--dark", action="store_true", help="with --plot: in colours for dark pages")


def check_plot_options(arguments: Namespace) -> None:
    """Raise ValueError, before anything takes long, unless what the options ask for can be drawn."""
    if arguments.plot is None:
        if name := next((name for name in ("panels", "dark") if getattr(arguments, name)), None):
            raise ValueError(f"--{name} is for --plot FILE")
        return
    from ..report.plot_file import check_plot

    check_plot(arguments.plot)


def write(plot: "Plot", arguments: Namespace) -> None:
    """Draw the panels that were asked for, and say where."""
    from ..report.plot_file import write_plot

    write_plot(plot.only(arguments.panels), arguments.plot, arguments.dark)
    if getattr(arguments, "format", "terminal") in ("terminal", "markdown"):  # nothing else among LaTeX and CSV
        say(f"written: {arguments.plot}")
