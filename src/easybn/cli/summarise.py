"""What the report shows of models, written as rows beside the runs: summary.json, gallery.png, verdicts.jsonl.

easybn report reads rows and never models. This step reads the models once: how sure each is of every test image, a
small gallery of easy and adversarial copies, and which points it gets right. Some tens of kilobytes a run, so that
they can be kept where the weights are not. What is there already is not done again.

easybn summarise runs/cpu
"""

from jsonargparse import Namespace

from ..terminal import Terminal
from .arguments import Parser


def configure(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="folders of finished runs, or of folders of runs")
    repeated = "repeats the code that makes the data set of the runs, my.py:make: a stored name runs none"
    parser.add_argument("--data", type=str, default=None, help=repeated)


def run(arguments: Namespace) -> None:
    from ..progress import ProgressBars, progress_display
    from ..runs.summary import summarise
    from .table import find

    runs = [each for each in find(arguments.runs) if (each.folder / "config.json").exists()]
    if unfinished := [each for each in runs if not each.finished]:
        raise FileNotFoundError(f"{unfinished[0].folder} is not finished: run its easybn train again")
    console = Terminal(soft_wrap=True)
    with progress_display() as display:
        for each in runs:
            summarise(each, ProgressBars(display, each.folder.name, "summary"))
    for each in runs:
        console.print(f"{each.folder}/summary.json, gallery.png, verdicts.jsonl")
