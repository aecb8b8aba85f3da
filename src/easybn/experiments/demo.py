"""The main job in one go: vanilla, AdvProp and EBN on the bundled sample, trained, attacked and compared."""

from pathlib import Path

from rich.progress import Progress

from ..recipes import EBN, AdvProp, Recipe, Vanilla
from ..train.progress import ProgressBar, training_progress
from ..train.training import Training
from .experiment import Experiment
from .run import Run, train
from .score_run import Measurement, score

RECIPES: dict[str, Recipe] = {"vanilla": Vanilla(), "advprop": AdvProp(), "ebn": EBN()}
TRAINING = Training(epochs=8, batch_size=64, lr=0.1)
MEASUREMENT = Measurement(points=150, batch_size=150)


def demo(folder: Path, progress: Progress | None = None) -> list[Run]:
    """Train and score the three recipes below ``folder``; what is done there already is not done again.

    Args:
        progress: a rich display with :func:`easybn.train.progress.training_progress`'s columns.
    """
    runs = []
    with progress or training_progress() as display:
        for name, recipe in RECIPES.items():
            experiment = Experiment(recipe=recipe, data="sample", model="resnet_tiny", training=TRAINING)
            run = train(experiment, folder / name, observers=[ProgressBar(f"{name}: training", display)])
            score(run, display, MEASUREMENT)
            runs.append(run)
    return runs
