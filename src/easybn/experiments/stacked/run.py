"""The experiment in a folder: what is there already is not done again, a kill loses at most one training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from ... import data, models
from ...data.source import listed
from ...models import weights
from ...recipes.vanilla import Vanilla
from ...rows import STACKED, read_json, read_rows
from ...sealed import write_json, write_rows
from ...train.prepare import usable
from ...train.progress import ProgressBar
from ...train.training import Training
from ..environment import environment
from ..experiment import DATA_OPTIONS, Experiment, differences
from ..prepare import load_data
from ..run import Run, train
from .pairs import two_classes
from .second_net import condition_rows, fresh
from .settings import Condition, Settings


def stacked(settings: Settings, folder: Path, display: Progress, device: str | None = None) -> list[dict[str, Any]]:
    """Do what is missing in ``folder`` and return all of its rows that ``settings`` ask for.

    ==================== =========================================================================================
    stacked.json         what all rows have in common
    rows.jsonl           seven rows a training, see :func:`condition_rows`
    environment.json     versions, commit, machine and threads of each sitting
    first/seed-N         the run of the first network, see :class:`easybn.experiments.run.Run`
    pictures/\\*.png      test images, their copies and the amplified difference, one picture a condition (first seed)
    ==================== =========================================================================================

    Args:
        display: a live rich display with :func:`easybn.train.progress.training_progress`'s columns.
        device: by default CUDA where there is one, else the CPU.

    Raises:
        ValueError: settings that do not fit the data, or a folder with rows of other settings.
        BusyError: another process is at work there.
    """
    device = str(usable(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    source = load_data(first_experiment(settings, 0))
    classes = two_classes(source, settings.classes)
    fresh(settings, source, 0)  # an unknown model takes no folder
    path = folder / "rows.jsonl"
    wanted = [(seed, condition) for seed in range(settings.seeds) for condition in settings.conditions]
    with Run(folder).locked():
        claim(folder, settings.fixed((source.classes[classes[0]], source.classes[classes[1]])))
        rows = read_rows(path, STACKED)
        known = {_key(row) for row in rows}
        todo = [(seed, condition) for seed, condition in wanted if (seed, condition) not in known]
        if todo:
            sittings = Run(folder).sittings
            write_json(folder / "environment.json", [*sittings, environment()])
            commit = environment()["commit"]
            bar = display.add_task("stacked", total=len(wanted), completed=len(wanted) - len(todo), info="")
            for seed, condition in todo:
                display.update(bar, info=f"seed {seed}: {condition}")
                with passing(display):
                    net = first_net(settings, source, folder, seed, display, device)
                    new = condition_rows(settings, source, classes, net, condition, seed, folder, display)
                rows += [{**row, "commit": commit} for row in new]
                write_rows(path, rows)
                display.advance(bar)
            display.update(bar, info="")
    return [row for row in rows if _key(row) in wanted]


def claim(folder: Path, fixed: dict[str, Any]) -> None:
    """Make the folder one of these settings; ValueError if it holds rows of others."""
    path = folder / "stacked.json"
    if (folder / "rows.jsonl").exists():
        if different := differences(fixed, read_json(path, {})):
            raise ValueError(f"{folder} holds other rows ({'; '.join(different)}): give another --out")
    else:
        write_json(path, fixed)


def first_experiment(settings: Settings, seed: int) -> Experiment:
    """The training of the first network of a seed: ``epochs_first`` epochs on all classes."""
    return Experiment(
        recipe=Vanilla(),
        data=settings.data,
        model=settings.model,
        validation=0.0,
        train_images=settings.train_images,
        data_folder=settings.data_folder,
        training=Training(epochs=settings.epochs_first, batch_size=settings.batch_size, seed=seed),
        **{name: getattr(settings, name) for name in DATA_OPTIONS},
    )


def first_net(
    settings: Settings, source: data.Source, folder: Path, seed: int, display: Progress, device: str
) -> nn.Module:
    """The network of :func:`first_experiment`, in eval mode; trained if it is not there yet.

    Raises:
        ValueError: it was trained on other classes than ``source`` has by now.
    """
    bar = ProgressBar(f"seed {seed}: first network", display)
    home = folder / "first" / f"seed-{seed}"
    run = train(first_experiment(settings, seed), home, observers=[bar], device=device)
    about = weights.trained_on(run.folder)
    if about is not None and about.classes != source.classes:
        raise ValueError(
            f"{run.folder}: was trained on the classes {listed(about.classes)}, and {source.name} has "
            f"{listed(source.classes)} by now: give another --out"
        )
    return models.load(run.folder).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextmanager
def passing(display: Progress) -> Iterator[None]:
    """The bars added inside the block are gone after it."""
    before = set(display.task_ids)
    try:
        yield
    finally:
        for task in set(display.task_ids) - before:
            display.remove_task(task)


def _key(row: dict[str, Any]) -> tuple[int, Condition]:
    return row["seed"], Condition(row["copy"], row["eps"], row["steps"])
