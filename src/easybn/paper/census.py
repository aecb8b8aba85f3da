"""The census of easy examples over seeds, in a folder: a kill loses what came after the last checkpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from rich.progress import Progress
from torch import Tensor

from ..data import Source, Split
from ..files import check_regular, replacing
from ..json_files import read_json, read_rows, write_json, write_rows
from ..keyed_random import permutation
from ..metrics.answers import Answers, answers
from ..models.state_dicts import checksums, read_safetensors
from ..perturb.ball import Linf
from ..perturb.pgd import PGD
from ..runs.config import Experiment, SampleIds, describe, differences, environment
from ..runs.prepare import load_data, prepare
from ..runs.run import Run
from ..stats import overlap
from ..train import checkpoint
from ..train.fit import fit
from ..train.observers import Observer, ProgressBar, TrainingState
from ..train.prepare import usable_device

# What a census of easy examples is asked.


@dataclass(frozen=True)
class Census:
    """What is asked of a training.

    Args:
        threshold: an image is easy when it is classified correctly with a confidence above this, in [0, 1).
        epochs: after each of how many first epochs the images are looked at.
        seeds: number of trainings, seeds 0 to seeds - 1.
        eps: l-infinity radius of the easy copies' one step, in [0, 1] pixel units.
    """

    threshold: float = 0.9
    epochs: int = 1
    seeds: int = 3
    eps: float = 1 / 255

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is a confidence in [0, 1), got {self.threshold}")
        for name in ("epochs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        Linf(self.eps)  # its own message

    @property
    def kind(self) -> dict[str, Any]:
        """The keys that tell this census's rows, and their epochs and seeds, from others in the folder."""
        return {"threshold": self.threshold, "norm": "linf", "eps": self.eps, "steps": 1}

    def has(self, row: dict[str, Any]) -> bool:
        """Whether a row of census.jsonl or overlap.jsonl is wanted."""
        seeds = [row[key] for key in ("seed", "seed_a", "seed_b") if key in row]
        known = all(row[key] == value for key, value in self.kind.items())
        return known and row["epoch"] <= self.epochs and all(seed < self.seeds for seed in seeds)


# What one training's census found, in a file: a number for each image, so that any threshold can be asked for.

_NAMES = ("confidence", "of_label", "correct")


@dataclass(frozen=True, eq=False)
class CensusAnswers:
    """The answers on N training images and on their easy copies.

    Args:
        ids: (N,) int64, the images' numbers in the data set's training split.
        labels: (N,) int64.
        own, copies: of the images as they are, and of their easy copies.
    """

    ids: Tensor
    labels: Tensor
    own: Answers
    copies: Answers

    def save(self, path: Path) -> None:
        """As safetensors: ids, labels; confidence, of_label, correct; and copy_confidence and so on."""
        tensors = {"ids": self.ids, "labels": self.labels}
        for before, part in (("", self.own), ("copy_", self.copies)):
            tensors |= {f"{before}{name}": getattr(part, name) for name in _NAMES}
        whole = {name: value.contiguous() for name, value in tensors.items()}
        with replacing(path) as file:
            file.write(safetensors.torch.save(whole, checksums(whole)))

    @classmethod
    def read(cls, path: Path) -> "CensusAnswers":
        """What :meth:`save` wrote.

        Raises:
            ValueError: another content.
        """
        try:
            check_regular(path)
            _, found = read_safetensors(path)
            own, copies = (Answers(*(found[before + name] for name in _NAMES)) for before in ("", "copy_"))
            return cls(found["ids"], found["labels"], own, copies)
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, to have it made again") from error


# The census of easy examples, as an observer of :func:`easybn.fit`.

Seen = Callable[[int, Answers, Answers], None]
"""Is told of each epoch: its number, from 1, and the answers on the images and on their easy copies."""


class EasyCensus(Observer):
    """Confidence and correctness of every training image after each of the first epochs, then the end.

    After an epoch every image is passed once more, as it is: in eval mode, through the deployed branch, without
    augmentation, in float32, by the weights as they train (not their moving average). That is exact: the answers of
    one network. By count of passes it costs a third of an epoch of plain training, and the easy copies a whole one
    (two forward passes, and a backward pass to the images alone). The logits of the training steps would cost nothing,
    but are those of a network that changes from step to step, in train mode, on augmented images.

    Args:
        split: the training images.
        seen: told of each epoch, before the checkpoint that follows it is written.
        epochs: how many to watch.
        copies: makes the easy copies: one step of the easy goal.
        stop: end the training after them. Its schedule is that of the whole training all the same.
    """

    def __init__(
        self, split: Split, seen: Seen, epochs: int = 1, copies: PGD = PGD(Linf(1 / 255), steps=1), stop: bool = True
    ):
        self._split, self._seen, self._epochs, self._copies, self._stop = split, seen, epochs, copies, stop

    def start(self, state: TrainingState) -> None:
        self._end(state)  # a checkpoint of this very end

    def epoch(self, state: TrainingState, row: dict[str, Any]) -> None:
        if row["epoch"] <= self._epochs:
            own, copies = answers(state.model, self._split, self._copies)
            assert copies is not None
            self._seen(row["epoch"], own, copies)
        self._end(state)

    def _end(self, state: TrainingState) -> None:
        if self._stop and state.step >= self._epochs * state.steps_per_epoch:
            state.stop = True


# From the answers of a census to rows: one a seed, one a pair of seeds.


def seed_row(found: CensusAnswers, threshold: float, classes: Sequence[str]) -> dict[str, Any]:
    """What one training found.

    Returns:
        n, correct, accuracy, easy and easy_share (of all images), mean_confidence (of the class predicted) and
        mean_confidence_of_label; copies_correct, copies_easy, copies_easy_share, copies_mean_confidence; two measures
        of what the easy step does: confidence_shift, the mean change of the label's confidence, and made_easy, how
        many images are not easy and have an easy copy; per_class, a list of class, n, easy, copies_easy.
    """
    own, copies, n = found.own, found.copies, len(found.ids)
    easy, copies_easy = own.easy(threshold), copies.easy(threshold)
    per_class = []
    for label, name in enumerate(classes):
        of = found.labels == label
        counts = {"n": int(of.sum()), "easy": int((easy & of).sum()), "copies_easy": int((copies_easy & of).sum())}
        per_class.append({"class": name, **counts})
    return {
        "n": n,
        "correct": int(own.correct.sum()),
        "accuracy": int(own.correct.sum()) / n,
        "easy": int(easy.sum()),
        "easy_share": int(easy.sum()) / n,
        "mean_confidence": _mean(own.confidence),
        "mean_confidence_of_label": _mean(own.of_label),
        "copies_correct": int(copies.correct.sum()),
        "copies_easy": int(copies_easy.sum()),
        "copies_easy_share": int(copies_easy.sum()) / n,
        "copies_mean_confidence": _mean(copies.confidence),
        "confidence_shift": _mean(copies.of_label.double() - own.of_label.double()),
        "made_easy": int((copies_easy & ~easy).sum()),
        "per_class": per_class,
    }


def overlap_rows(found: Mapping[int, CensusAnswers], threshold: float) -> list[dict[str, Any]]:
    """A row for each pair of seeds: seed_a, seed_b, n, easy_a, easy_b, easy_both, jaccard, jaccard_by_chance, kappa.

    Args:
        found: by seed, all of the same images.
    """
    rows = []
    for (seed_a, a), (seed_b, b) in combinations(found.items(), 2):
        pair = overlap(a.own.easy(threshold), b.own.easy(threshold))
        counts = {"n": pair.n, "easy_a": pair.a, "easy_b": pair.b, "easy_both": pair.both}
        agreement = {"jaccard": pair.jaccard, "jaccard_by_chance": pair.jaccard_by_chance, "kappa": pair.kappa}
        rows.append({"seed_a": seed_a, "seed_b": seed_b, **counts, **agreement})
    return rows


def merge(path: Path, rows: list[dict[str, Any]], keys: list[str]) -> None:
    """Put ``rows`` in the place of those in the file that have the same ``keys``."""
    new = {tuple(row[key] for key in keys) for row in rows}
    kept = [row for row in read_rows(path) if tuple(row[key] for key in keys) not in new]
    write_rows(path, [*kept, *rows])


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


# Easy images to leave out of training, and as many random ones: does it hurt, and does it hurt less?
#
# The paper cites Kishida & Nakayama (2019): easy examples could be removed without influencing generalization. That is
# a finding about them only if removing as many others does.


def subset_path(folder: Path, wanted: Census, kind: str = "easy") -> Path:
    """The file of the images that are "easy" in every seed, or of as many "random" ones."""
    return folder / f"{kind}-above-{wanted.threshold:g}-epoch-{wanted.epochs}-seeds-{wanted.seeds}.json"


def subsets(source: Source, wanted: Census, found: Sequence[CensusAnswers]) -> Iterator[tuple[str, SampleIds]]:
    """ "easy" and "random" with their images.

    Args:
        found: of every seed, after the last epoch.
    """
    ids, labels, easy = found[0].ids, found[0].labels, easy_in_all(found, wanted.threshold)
    of_all = len(source.train)
    how = f"confidence above {wanted.threshold:g} after epoch {wanted.epochs} in each of {wanted.seeds} trainings"
    chosen = tuple(ids[easy].tolist())
    yield "easy", SampleIds(source.name, of_all, chosen, f"easy: {how}", source.classes)
    drawn = permutation(len(ids), 0, "census control")
    control: list[int] = []
    for label in range(len(source.classes)):
        of = drawn[labels[drawn] == label][: int((easy & (labels == label)).sum())]
        control += ids[of].tolist()
    like = f"random, as many of each class as are easy: {how}"
    yield "random", SampleIds(source.name, of_all, tuple(sorted(control)), like, source.classes)


def easy_in_all(found: Sequence[CensusAnswers], threshold: float) -> Tensor:
    """(N,) bool: the images that are easy in every training, at least one."""
    return torch.stack([each.own.easy(threshold) for each in found]).all(0)


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
    environment.json        versions, commit, machine and threads of each session
    ======================= ======================================================================================

    Args:
        display: of :func:`easybn.progress.progress_display`, already live.
        device: by default CUDA where there is one, else the CPU.

    Raises:
        ValueError: more epochs than the training has, or a folder with the census of another experiment.
        BusyError: another process is at work there.
    """
    if wanted.epochs > experiment.training.epochs:
        raise ValueError(f"epochs: {wanted.epochs} asked, the training has {experiment.training.epochs}")
    experiment = replace(experiment, validation=0.0)
    device = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    source = load_data(experiment)
    todo = [seed for seed in range(wanted.seeds) if not all(path.exists() for path in _paths(folder, wanted, seed))]
    if todo:
        prepare(experiment)  # a mistake in the model takes no folder
    with Run(folder).locked():
        _claim(folder, experiment, source)
        if todo:
            write_json(folder / "environment.json", [*Run(folder).sessions, environment()])
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

    def start(self, state: TrainingState) -> None:
        super().start(state)
        if self._task is not None:
            self._display.update(self._task, total=self._epochs * state.steps_per_epoch)


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
