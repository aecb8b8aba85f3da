"""Clean and robust accuracy of trained models on their test split; what was measured already is shown again.

PGD is run under two protocols: "robustness", the paper's columns, faithful to the library of that name, and
"strong", which no saturated loss can mislead. Where the two disagree, believe the second.
"""

from jsonargparse import Namespace
from rich.console import Console

from .arguments import Parser, number


def configure(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="folders of finished runs, or of folders of runs")
    parser.add_argument("--norm", choices=["l2", "linf"], default="l2", help="of the perturbations")
    parser.add_argument("--eps", nargs="+", type=number, default=[0.1, 0.5, 1.0], help="radii in [0, 1] pixel units")
    parser.add_argument("--protocols", nargs="+", choices=["robustness", "strong"], default=["robustness", "strong"])
    parser.add_argument("--steps", type=int, default=100, help="gradient steps an image, for each loss")
    parser.add_argument("--points", type=int, default=1000, help="test images attacked, drawn by --seed")
    parser.add_argument("--batch_size", type=int, default=100, help="part of the 'robustness' protocol's result")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the test images")
    parser.add_argument("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default the CPU")


def run(arguments: Namespace) -> None:
    from ..experiments.score_run import Measurement, score
    from ..train.prepare import usable
    from ..train.progress import training_progress
    from .table import find, show

    runs = find(arguments.runs)
    if unfinished := [each for each in runs if not each.finished]:  # before hours of work on the others
        raise FileNotFoundError(f"{unfinished[0].folder} is not finished: run its easybn train again")
    wanted = Measurement(
        norm=arguments.norm,
        eps=tuple(arguments.eps),
        protocols=tuple(arguments.protocols),
        steps=arguments.steps,
        points=arguments.points,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        device=None if arguments.device is None else str(usable(arguments.device)),
    )
    with training_progress() as display:
        for each in runs:
            score(each, display, wanted)
    show(Console(), runs)
