"""Train one model, or the three of the demo."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.console import Console
from rich.progress import Progress as Display

from ..data.split import printable
from ..evaluation.config import EvaluateConfig
from ..progress import ProgressBars, progress_display
from ..recipes import EBN, AdvProp, Recipe, Vanilla
from ..runs.config import DATA_OPTIONS, Experiment
from ..runs.evaluate import evaluate_run
from ..runs.kept_epochs import KeepEpochs, check
from ..runs.run import Run, train
from ..runs.target import EvaluationTarget
from ..runs.tracked import tracking_of
from ..terminal import Terminal
from ..train.launch import process_group
from ..train.observers import Observer, ProgressBar
from ..train.schedule import Training
from ..train.trackers import check_trackers
from .arguments import Parser

if TYPE_CHECKING:
    from ..runs.prepare import Estimate


def configure_train(parser: Parser) -> None:
    parser.add_argument("--config", action="config", help="a YAML file, or the name of a config of the package")
    parser.add_argument(
        "--out", type=str, default=None, help="folder of the run; by default runs/DATA-MODEL-RECIPE-SEED"
    )
    parser.add_argument("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    on_device = "keep all images on the device (true, false); by default on CUDA if they fit easily"
    parser.add_argument("--data_on_device", type=bool | None, default=None, help=on_device)
    parser.add_argument("--checkpoint_seconds", type=float, default=60.0, help="seconds between checkpoints")
    parser.add_argument("--estimate", action="store_true", help="time a few steps: how long the training takes here")
    any_processes = "resume even if another number of processes began the training, which changes its results"
    parser.add_argument("--any_processes", action="store_true", help=any_processes)
    trackers = "trackers that get curves and pictures: tensorboard, wandb, trackio, mlflow; by default none"
    parser.add_argument("--track", nargs="+", type=str, default=[], help=trackers)
    keep = "keep the network after these epochs, such as 1 3 9, for easybn analyse --epochs; by default none"
    parser.add_argument("--keep_epochs", nargs="+", type=int, default=[], help=keep)
    parser.add_class_arguments(Experiment, None, skip={"training"})
    parser.add_class_arguments(Training, None)


def run_train(arguments: Namespace) -> None:
    """Train one model by one recipe, in its own folder.

    After a stop the same command continues; once the run is finished it does nothing. Every field of the recipe can be
    set: --recipe EBN --recipe.attack.ball.eps 8/255 --recipe.through main. Your own recipe, data set or model:
    --recipe my.py:MyRecipe, --data my.py:make, --model my.py:net. --estimate says how long the training takes here.

    Several processes, each of which takes its share of every batch: torchrun --nproc_per_node 4 -m easybn train ...;
    accelerate launch -m easybn train ...; in a Slurm job srun easybn train ... One GPU a process, or CPUs.
    """
    experiment = experiment_of(arguments)
    console = Terminal(soft_wrap=True)
    if arguments.estimate:
        from ..runs.prepare import estimate

        show_estimate(console, experiment, estimate(experiment, arguments.device))
        return
    folder = Path(arguments.out or default_folder(experiment))
    check(arguments.keep_epochs, experiment.training.epochs)
    check_trackers(arguments.track)
    with process_group(arguments.device) as processes:
        observers: list[Observer] = []
        if arguments.keep_epochs:
            observers.append(KeepEpochs(folder, arguments.keep_epochs, experiment.digest))
        if arguments.track and processes.first:
            observers.append(tracking_of(Run(folder), arguments.track, experiment))
        if processes.first:
            observers.append(ProgressBar("training"))
        done = train(
            experiment,
            folder,
            observers=observers,
            device=arguments.device,
            data_on_device=arguments.data_on_device,
            checkpoint_seconds=arguments.checkpoint_seconds,
            any_processes=arguments.any_processes,
            on_note=lambda note: console.print(f"note: {note}"),
        )
    if not processes.first:
        return
    if not (rows := done.metrics):
        raise ValueError(f"{folder / 'metrics.jsonl'} is empty, but the training is finished: it was damaged")
    for branch, score in rows[-1].get("val", {}).items():
        console.print(f"validation, branch {branch}: accuracy {score['accuracy']:.2%}, loss {score['loss']:.4f}")
    console.print(f"done: {folder} (next: easybn evaluate {folder})")


def experiment_of(arguments: Namespace) -> Experiment:
    """The experiment that the arguments describe."""
    values = vars(arguments)
    training = Training(**{name: values[name] for name in Training.__dataclass_fields__})
    names = [name for name, field in Experiment.__dataclass_fields__.items() if field.init and name != "training"]
    return Experiment(**{name: values[name] for name in names}, training=training)


def default_folder(experiment: Experiment) -> str:
    """runs/DATA-MODEL-RECIPE-SEED in lower case, DATA with the given options of an image folder."""
    model = printable(Path(experiment.model).name).replace(":", "-")
    recipe = type(experiment.recipe).__name__
    options = {name: getattr(experiment, name) for name in DATA_OPTIONS}
    words = [
        printable(Path(experiment.data).stem).replace(":", "-"),
        *(f"{k}-{v:g}" for k, v in options.items() if v is not None),
    ]
    return f"runs/{'-'.join(words)}-{model}-{recipe}-{experiment.training.seed}".lower()


def show_estimate(console: Console, experiment: Experiment, found: "Estimate") -> None:
    """Print how long the training takes, and from which measurements."""
    console.print(
        f"{found.images_per_second:,.0f} images/s: {1000 * found.step_seconds:,.1f} ms per step of {found.batch_size} "
        f"images (mean of {found.timed} steps; the first ones took {found.first_seconds:.1f} s)"
    )
    console.print(
        f"{found.steps:,} steps in {experiment.training.epochs:,} epochs, and {duration(found.validation_seconds)} "
        f"of validation: {duration(found.seconds)} on this machine as it is now"
    )


def duration(seconds: float) -> str:
    """Seconds in words: 40 seconds, 12 minutes, 5.3 hours, 3.1 days."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


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
            run_demo = train(experiment, folder / name, observers=[ProgressBar(f"{name}: training", live)])
            evaluate_run(EvaluationTarget.of_run(run_demo), EVALUATION, ProgressBars(live, name, "evaluation"))
            runs.append(run_demo)
    return runs


def configure_demo(parser: Parser) -> None:
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of the three runs")


def run_demo(arguments: Namespace) -> None:
    """Train vanilla, AdvProp and EBN on the bundled sample of Fashion-MNIST, attack them, print the table.

    Takes a few minutes on two cores. After a stop the same command continues; what is done is not done again.
    """
    from .table import show

    runs = demo(Path(arguments.out))
    console = Terminal()
    show(console, runs)
    console.print("Each run's config, metrics, scores and deployable model:")
    for each in runs:
        console.print(f"  {each.folder}")
