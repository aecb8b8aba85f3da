"""Train vanilla, AdvProp and EBN on the bundled sample of Fashion-MNIST, attack them, print the table.

Takes a few minutes on two cores. Stopped and started again it goes on where it was; what is done is not
done again.
"""

from pathlib import Path

from jsonargparse import Namespace

from ..terminal import Terminal
from .arguments import Parser


def configure(parser: Parser) -> None:
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of the three runs")


def run(arguments: Namespace) -> None:
    from ..experiments.demo import demo
    from .table import show

    runs = demo(Path(arguments.out))
    console = Terminal()
    show(console, runs)
    console.print("Each run's config, metrics, scores and deployable model:")
    for each in runs:
        console.print(f"  {each.folder}")
