"""Train one model by one recipe, in a folder of its own.

The same command goes on after a stop, and does nothing once the run is done. Every field of the recipe can
be set: --recipe EBN --recipe.attack.ball.eps 8/255 --recipe.through main. A recipe of your own:
--recipe ./my_recipe.py:MyRecipe.
"""

from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from ..experiments.experiment import Experiment
from ..train.training import Training
from .arguments import Parser


def configure(parser: Parser) -> None:
    parser.add_argument("--config", action="config", help="a YAML file, or the name of a config of the package")
    parser.add_argument(
        "--out", type=str, default=None, help="folder of the run; by default runs/DATA-MODEL-RECIPE-SEED"
    )
    parser.add_argument("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    parser.add_argument("--checkpoint_seconds", type=float, default=60.0, help="save what is done so often")
    parser.add_class_arguments(Experiment, None, skip={"training"})
    parser.add_class_arguments(Training, None)


def run(arguments: Namespace) -> None:
    from ..experiments.run import train
    from ..train.progress import ProgressBar

    values = vars(arguments)
    training = Training(**{name: values[name] for name in Training.__dataclass_fields__})
    names = [name for name in Experiment.__dataclass_fields__ if name != "training"]
    experiment = Experiment(**{name: values[name] for name in names}, training=training)
    recipe = type(experiment.recipe).__name__
    data = Path(experiment.data).stem
    model = experiment.model.replace(":", "-")
    folder = Path(arguments.out or f"runs/{data}-{model}-{recipe}-{training.seed}".lower())
    done = train(
        experiment,
        folder,
        observers=[ProgressBar("training")],
        device=arguments.device,
        checkpoint_seconds=arguments.checkpoint_seconds,
    )
    console = Console(highlight=False)
    for branch, score in done.metrics[-1].get("val", {}).items():
        console.print(f"validation, branch {branch}: accuracy {score['accuracy']:.2%}, loss {score['loss']:.4f}")
    console.print(f"done: {folder} (next: easybn evaluate {folder})")
