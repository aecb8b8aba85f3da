"""Train vanilla, AdvProp and EBN on the bundled sample of Fashion-MNIST, attack them, print the table.

Takes a few minutes on two cores. After a stop the same command continues; what is done is not done again.
"""

from pathlib import Path

from jsonargparse import Namespace
from rich.progress import Progress as Display

from ..evaluation.config import EvaluateConfig
from ..progress import ProgressBars, progress_display
from ..recipes import EBN, AdvProp, Recipe, Vanilla
from ..runs.config import Experiment
from ..runs.evaluate import evaluate_run
from ..runs.run import Run, train
from ..runs.target import EvaluationTarget
from ..terminal import Terminal
from ..train.observers import ProgressBar
from ..train.schedule import Training
from .arguments import Parser

RECIPES: dict[str, Recipe] = {"vanilla": Vanilla(), "advprop": AdvProp(), "ebn": EBN()}
TRAINING = Training(epochs=8, batch_size=64, lr=0.1)
EVALUATION = EvaluateConfig.of_run(points=150, batch_size=150)


def demo(folder: Path, display: Display | None = None) -> list[Run]:
    """Train and evaluate the three recipes in folders below ``folder``; what is done already is not done again.

    Args:
        display: of :func:`easybn.progress.progress_display`; by default one of its own.
    """
    runs = []
    with display or progress_display() as live:
        for name, recipe in RECIPES.items():
            experiment = Experiment(recipe=recipe, data="sample", model="resnet_tiny", training=TRAINING)
            run = train(experiment, folder / name, observers=[ProgressBar(f"{name}: training", live)])
            evaluate_run(EvaluationTarget.of_run(run), EVALUATION, ProgressBars(live, name, "evaluation"))
            runs.append(run)
    return runs


def configure(parser: Parser) -> None:
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of the three runs")


def run(arguments: Namespace) -> None:
    from .table import show

    runs = demo(Path(arguments.out))
    console = Terminal()
    show(console, runs)
    console.print("Each run's config, metrics, scores and deployable model:")
    for each in runs:
        console.print(f"  {each.folder}")
