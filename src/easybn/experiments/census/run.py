"""The census of easy examples over seeds, in a folder: a kill loses what came after the last checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from ...analysis.answers import Answers
from ...data import Source
from ...perturb.ball import Linf
from ...perturb.pgd import PGD
from ...rows import read_json
from ...sealed import write_json
from ...train import checkpoint
from ...train.loop import fit
from ...train.observer import Moment
from ...train.prepare import usable
from ...train.progress import ProgressBar
from ..environment import environment
from ..experiment import Experiment, describe, differences
from ..prepare import load_data, prepare
from ..run import Run
from .answers import CensusAnswers
from .observer import EasyCensus
from .rows import merge, overlap_rows, seed_row
from .settings import Census
from .subsets import subset_path, subsets


def census(
    experiment: Experiment, folder: Path, wanted: Census, display: Progress, device: str | None = None
) -> list[dict[str, Any]]:
    """Do what is missing in ``folder`` and return its rows that are ``wanted``, seeds and epochs ascending.

    Every training is that of ``experiment``, with its schedule, but on all training images (none is held out, so that
    all seeds have the same images), of seed 0, 1, ..., and ended after the epochs asked for.

    ======================= ======================================================================================
    census.json             the experiment
    census.jsonl            a row a seed, epoch and threshold, see :func:`~.census_rows.seed_row`
    overlap.jsonl           a row a pair of seeds, epoch and threshold, see :func:`~.census_rows.overlap_rows`
    answers/\\*.safetensors  a number an image, see :class:`~.census_answers.CensusAnswers`
    easy-\\*.json            the images that are easy after the last epoch in every seed, for ``leave_out``
    random-\\*.json          as many images of each class drawn at random, the control of leaving out
    environment.json        versions, commit, machine and threads of each sitting
    ======================= ======================================================================================

    Args:
        display: a live rich display with :func:`easybn.train.progress.training_progress`'s columns.
        device: by default CUDA where there is one, else the CPU.

    Raises:
        ValueError: more epochs than the training has, or a folder with the census of another experiment.
        BusyError: another process is at work there.
    """
    if wanted.epochs > experiment.training.epochs:
        raise ValueError(f"epochs: {wanted.epochs} asked, the training has {experiment.training.epochs}")
    experiment = replace(experiment, validation=0.0)
    device = str(usable(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    source = load_data(experiment)
    todo = [seed for seed in range(wanted.seeds) if not all(path.exists() for path in _paths(folder, wanted, seed))]
    if todo:
        prepare(experiment)  # a mistake in the model takes no folder
    with Run(folder).locked():
        _claim(folder, experiment, source)
        if todo:
            write_json(folder / "environment.json", [*Run(folder).sittings, environment()])
        for seed in todo:
            training = replace(experiment.training, seed=seed)
            _train(replace(experiment, training=training), folder, wanted, display, device)
        return _rows(experiment, source, folder, wanted)


def _paths(folder: Path, wanted: Census, seed: int) -> list[Path]:
    """The answers of a seed, a file an epoch."""
    names = [f"seed-{seed}-epoch-{epoch}-eps-{wanted.eps:.6g}" for epoch in range(1, wanted.epochs + 1)]
    return [folder / "answers" / f"{name}.safetensors" for name in names]


def _claim(folder: Path, experiment: Experiment, source: Source) -> None:
    path = folder / "census.json"
    about = describe(replace(experiment, training=replace(experiment.training, seed=0)))
    about |= {"classes": list(source.classes)}  # the images are known by their numbers, in the order of the classes
    if path.exists():
        then = {"classes": about["classes"], **read_json(path, {})}  # older ones do not say them
        if different := differences(about, then):
            raise ValueError(f"{folder} holds another census ({'; '.join(different)}): give another --out")
    else:
        write_json(path, about)


class _Bar(ProgressBar):
    """That of a training that ends after ``epochs``."""

    def __init__(self, title: str, display: Progress, epochs: int):
        super().__init__(title, display)
        self._epochs = epochs

    def start(self, moment: Moment) -> None:
        super().start(moment)
        if self._task is not None:
            self._progress.update(self._task, total=self._epochs * moment.steps_per_epoch)


def _train(experiment: Experiment, folder: Path, wanted: Census, display: Progress, device: str) -> None:
    asked, seed = prepare(experiment), experiment.training.seed
    paths = _paths(folder, wanted, seed)
    kept = folder / f"seed-{seed}-eps-{wanted.eps:.6g}.pt"
    bar = _Bar(f"{folder.name}, seed {seed}", display, wanted.epochs)

    def seen(epoch: int, own: Answers, copies: Answers) -> None:
        CensusAnswers(asked.train.numbers, asked.train.labels, own, copies).save(paths[epoch - 1])

    watch = EasyCensus(asked.train, seen, wanted.epochs, PGD(Linf(wanted.eps), steps=1))
    fit(
        asked.model,
        experiment.recipe,
        asked.train,
        experiment.training,
        checkpoint=kept,
        observers=[bar, watch],
        device=device,
    )
    checkpoint.forget(kept)  # so that another eps or more epochs begin at the start


def _rows(experiment: Experiment, source: Source, folder: Path, wanted: Census) -> list[dict[str, Any]]:
    about = {
        "data": source.name,
        "model": experiment.model,
        "recipe": describe(experiment.recipe)["class"],
        "training_epochs": experiment.training.epochs,
        **wanted.kind,
    }
    rows, pairs, found = [], [], {}
    for epoch in range(1, wanted.epochs + 1):
        paths = {seed: _paths(folder, wanted, seed)[epoch - 1] for seed in range(wanted.seeds)}
        found = {seed: CensusAnswers.read(path) for seed, path in paths.items()}
        for seed, each in found.items():
            row = seed_row(each, wanted.threshold, source.classes)
            rows.append({**about, "seed": seed, "epoch": epoch, **row, "answers": f"answers/{paths[seed].name}"})
        pairs += [{**about, "epoch": epoch, **row} for row in overlap_rows(found, wanted.threshold)]
    merge(folder / "census.jsonl", rows, [*wanted.kind, "seed", "epoch"])
    merge(folder / "overlap.jsonl", pairs, [*wanted.kind, "seed_a", "seed_b", "epoch"])
    for kind, ids in subsets(source, wanted, list(found.values())):
        ids.save(subset_path(folder, wanted, kind))
    return rows
