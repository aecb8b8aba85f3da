"""The paper's figures 1 and 2: does a network decide by the easy half of a stacked image, or by the original?

A first network makes easy copies of the images of two classes; a fresh network learns to tell the two classes apart on
originals stacked on their copies; then one half is randomised, and its accuracy measured. It trains all
networks itself, in a folder; what is there already is not done again, and a kill loses at most one training.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from .. import data, models
from ..data.source import listed
from ..data.split import channel_statistics
from ..json_files import Row, read_json, read_rows, write_json, write_rows
from ..keyed_random import Noise, torch_generators
from ..models import weights
from ..modes import evaluating
from ..recipes.vanilla import Vanilla
from ..rows import STACKED
from ..runs.config import DATA_OPTIONS, Experiment
from ..runs.description import differences
from ..runs.prepare import load_data
from ..runs.run import Run, environment, train
from ..stats import aggregate
from ..tables.table import Cell, Table, TableRow, mean_cell
from ..train.fit import fit
from ..train.observers import ProgressBar
from ..train.prepare import usable_device
from ..train.schedule import Training
from .stacked_images import (
    BATCH,
    HALVES,
    WAYS,
    Condition,
    Randomiser,
    Settings,
    paired,
    recognised,
    rows_of,
    save_picture,
    stack,
    two_classes,
)


def stacked(settings: Settings, folder: Path, display: Progress, device: str | None = None) -> list[Row]:
    """Do what is missing in ``folder`` and return all its rows that ``settings`` ask for.

    ==================== =========================================================================================
    stacked.json         what all rows have in common
    rows.jsonl           seven rows per training, see :func:`condition_rows`
    environment.json     versions, commit, machine and threads of each session
    first/seed-N         the run of the first network, see :class:`easybn.runs.run.Run`
    pictures/\\*.png      test images, their copies and the amplified difference, one picture per condition (first seed)
    ==================== =========================================================================================

    Args:
        display: of :func:`easybn.progress.progress_display`, already live.
        device: by default CUDA where there is one, else the CPU.

    Raises:
        ValueError: settings that do not fit the data, or a folder with rows of other settings.
        BusyError: another process is at work there.
    """
    device = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    source = load_data(first_experiment(settings, 0))
    classes = two_classes(source, settings.classes)
    fresh(settings, source, 0)  # an unknown model takes no folder
    path = folder / "rows.jsonl"
    wanted = [(seed, condition) for seed in range(settings.seeds) for condition in settings.conditions]
    with Run(folder).locked():
        _claim(folder, settings.fixed((source.classes[classes[0]], source.classes[classes[1]])))
        rows = read_rows(path, STACKED)
        known = {_key(row) for row in rows}
        todo = [(seed, condition) for seed, condition in wanted if (seed, condition) not in known]
        if todo:
            sessions = Run(folder).sessions
            write_json(folder / "environment.json", [*sessions, environment()])
            commit = environment()["commit"]
            bar = display.add_task("stacked", total=len(wanted), completed=len(wanted) - len(todo), info="")
            for seed, condition in todo:
                display.update(bar, info=f"seed {seed}: {condition}")
                with _temporary_bars(display):
                    net = first_net(settings, source, folder, seed, display, device)
                    new = condition_rows(settings, source, classes, net, condition, seed, folder, display)
                rows += [{**row, "commit": commit} for row in new]
                write_rows(path, rows)
                display.advance(bar)
            display.update(bar, info="")
    return [row for row in rows if _key(row) in wanted]


def _claim(folder: Path, fixed: dict[str, Any]) -> None:
    """Store the settings in the folder; ValueError if it has rows of other settings."""
    path = folder / "stacked.json"
    if (folder / "rows.jsonl").exists():
        if different := differences(fixed, read_json(path, {})):
            raise ValueError(f"{folder} holds other rows ({'; '.join(different)}): give another --out")
    else:
        write_json(path, fixed)


def _key(row: Row) -> tuple[int, Condition]:
    return row["seed"], Condition.of(row)


@contextmanager
def _temporary_bars(display: Progress) -> Iterator[None]:
    """Remove the progress bars that were added inside the block."""
    before = set(display.task_ids)
    try:
        yield
    finally:
        for task in set(display.task_ids) - before:
            display.remove_task(task)


# The two networks of a condition: the first makes the copies, the fresh one learns from stacked pairs.


def condition_rows(
    settings: Settings,
    source: data.Source,
    classes: tuple[int, int],
    net: nn.Module,
    condition: Condition,
    seed: int,
    folder: Path,
    display: Progress,
) -> list[Row]:
    """Train a fresh network on pairs of ``condition`` and measure it on those of the test split.

    Returns:
        Seven rows: data, classes, model, layout, seed, epochs_first, epochs, batch_size, train_n (pairs it was
        trained on); copy, eps, steps, as in :class:`Condition`; picture (file in the folder); half and how, what was
        randomised (None: nothing); n, correct, accuracy; first_net, how many of the n originals and copies the first
        network gives their class, of all classes; seconds, of copies, training and all seven measurements.
    """
    began = time.monotonic()
    training, test = (paired(net, split, classes, condition) for split in (source.train, source.test))
    images = stack(training.originals, training.copies, settings.layout)
    second = fit(
        fresh(settings, source, seed, channel_statistics(images)),
        Vanilla(),
        (images, training.labels),
        Training(epochs=settings.epochs, batch_size=settings.batch_size, seed=seed),
        observers=[ProgressBar(f"seed {seed}: {condition}", display)],
        device=next(net.parameters()).device,
    ).model
    grey = torch.tensor(channel_statistics(training.originals)[0]).mul(255).round().byte()
    measured = list(measurements(second, Randomiser(test, grey, seed), settings.layout))
    labels = source.test.labels[rows_of(source.test, classes)]
    names = [source.classes[label] for label in classes]
    picture = f"pictures/{condition.file_name}.png"
    if seed == 0:  # before the rows: where they are, it is
        save_picture(folder / picture, test, names, str(condition))
    row = {
        "data": source.name,
        "classes": names,
        "model": settings.model,
        "layout": settings.layout,
        "seed": seed,
        "epochs_first": settings.epochs_first,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "train_n": len(training),
        "copy": condition.copy,
        "eps": condition.eps,
        "steps": condition.steps,
        "picture": picture,
    }
    first = {"original": recognised(net, test.originals, labels), "copy": recognised(net, test.copies, labels)}
    after = {"first_net": first, "seconds": round(time.monotonic() - began, 1)}
    return [{**row, **measurement, **after} for measurement in measured]


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


def fresh(settings: Settings, source: data.Source, seed: int, statistics: tuple[Any, Any] = (None, None)) -> nn.Module:
    """A new network of two classes, its weights drawn by ``seed``, but not the first network's initial ones.

    Those would share most of their numbers, and gradient perturbations transfer better between networks that began
    alike: it would not be a fresh network. All conditions of a seed begin with the same weights.
    """
    channels = source.train.shape[0] * (2 if settings.layout == "channels" else 1)
    weights_seed = int(Noise.of(seed, "stacked weights", torch.zeros(1, dtype=torch.int64)).bits(1))
    with torch_generators(seed=weights_seed):
        return models.build(settings.model, 2, channels, *statistics)


# How often a network is right on stacked test images, intact and with a half randomised.


def measurements(net: nn.Module, randomiser: Randomiser, layout: str) -> Iterator[Row]:
    """A row for the intact images (half and how None) and one for each half and way to randomise it.

    Yields:
        half, how, n, correct, accuracy.
    """
    ways: list[tuple[str | None, str | None]] = [(None, None), *((half, how) for half in HALVES for how in WAYS)]
    for half, how in ways:
        n, right = len(randomiser.pairs), correct(net, randomiser, layout, half, how)
        yield {"half": half, "how": how, "n": n, "correct": right, "accuracy": right / n}


def correct(net: nn.Module, randomiser: Randomiser, layout: str, half: str | None, how: str | None) -> int:
    """The number of test pairs that ``net``, in eval mode, classifies correctly."""
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    labels, right = randomiser.pairs.labels, 0
    with torch.inference_mode(), evaluating(net):
        for index in torch.split(torch.arange(len(labels)), BATCH):
            x = stack(*randomiser(index, half, how), layout).to(device).float() / 255
            right += int((net(x).argmax(1).cpu() == labels[index]).sum())
    return right


# The experiment as tables.

PAPER = {"copy": 0.0, "original": 99.0}
"""Accuracy in % that the paper reports with noise in either half of stacked cars and trucks (ResNet-18; else 99.0)."""


def stacked_tables(rows: Sequence[Row]) -> list[Table]:
    """A table for the randomised copy and one for the randomised original: mean and 95% interval over seeds.

    Args:
        rows: of :func:`stacked`, at least one training's.
    """
    return [_table(rows, half) for half in HALVES]


def _table(rows: Sequence[Row], half: str) -> Table:
    before, after = 99.0, PAPER[half]
    paper = [Cell(f"{before:.1f}", before), Cell(f"{after:.1f}", after), Cell(), Cell()]
    table_rows = [TableRow("the paper: easy", paper, muted=True)]
    for condition in dict.fromkeys(Condition.of(row) for row in rows):
        ours = [row for row in rows if Condition.of(row) == condition]
        cells = [_cell([row for row in ours if (row["half"], row["how"]) == (None, None)])]
        cells += [_cell([row for row in ours if (row["half"], row["how"]) == (half, how)]) for how in WAYS]
        table_rows.append(TableRow(str(condition), cells))
    title = f"The {half} randomised (the paper: {before:.1f} to {after:.1f})"
    return Table(title, "Beside the original", ["intact", *WAYS], table_rows)


def _cell(rows: Sequence[Row]) -> Cell:
    return mean_cell(aggregate([100 * row["accuracy"] for row in rows]), 1, rows[0]["n"])


def stacked_caption(rows: Sequence[Row]) -> str:
    """What the figures of both tables are of, and how to read them."""
    first, seeds = rows[0], len({row["seed"] for row in rows})
    interval = f"mean over {seeds} seeds with the half-width of its 95% interval (t)" if seeds > 1 else "1 seed"
    return (
        f"Accuracy in %, {interval}; {first['data']}, {' against '.join(first['classes'])}, {first['model']}, "
        f"{first['n']:,} test pairs. A network that reads only the randomised half keeps about 50 under noise, and 0 "
        "when it is swapped with that of the other class; one that does not read it keeps what it had. The paper has "
        "cars against trucks and RN-18, and states neither eps nor steps nor which noise."
    )
