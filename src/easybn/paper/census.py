"""The census of easy examples: how many training images are easy after the first epoch, and are they the same ones?

The paper takes easy examples for those that a network classifies correctly with high confidence after its first epoch
(Arpit et al. 2017), and cites Kishida & Nakayama (2019): easy examples could be removed without influencing
generalization. That says something about them only if removing as many others does influence it: the census writes both
sets, for trainings that leave them out. It trains networks itself; a kill loses what came after the last checkpoint.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from ..data import Source, Split
from ..json_files import Row, read_json, read_rows, write_json, write_rows
from ..keyed_random import permutation
from ..metrics.easy_examples import Answers, PairedAnswers, answers, easy_in_all, overlap_rows, seed_row
from ..perturb.ball import Linf
from ..perturb.eps import format_eps
from ..perturb.pgd import PGD
from ..runs.config import Experiment, SampleIds
from ..runs.description import describe, differences
from ..runs.prepare import load_data, prepare
from ..runs.run import Run, environment
from ..stats import aggregate
from ..tables.table import Cell, Table, TableRow, mean_cell
from ..train import checkpoint
from ..train.fit import fit
from ..train.observers import Observer, ProgressBar, TrainingState
from ..train.prepare import usable_device


@dataclass(frozen=True)
class Census:
    """The settings of a census.

    Args:
        threshold: an image is easy when it is classified correctly with a confidence above this, in [0, 1).
        epochs: the images are classified after each of the first so many epochs.
        seeds: number of trainings, seeds 0 to seeds - 1.
        eps: l-infinity radius of the easy copies' one step, in [0, 1] pixel units.
        split: "train", or "test": which images are classified. The test images are put into ten groups by how easy they
            are, for runs to be compared on; so that no run is judged by its own early self, seeds begin at
            :data:`FIRST_TEST_SEED`.
    """

    threshold: float = 0.9
    epochs: int = 1
    seeds: int = 3
    eps: float = 1 / 255
    split: str = "train"

    def __post_init__(self) -> None:
        if self.split not in ("train", "test"):
            raise ValueError(f"no split {self.split!r}, there are train and test")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is a confidence in [0, 1), got {self.threshold}")
        for name in ("epochs", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        Linf(self.eps)  # its own message

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that, with epoch and seeds, tell this census's rows from others in the folder."""
        test = {} if self.split == "train" else {"split": self.split}
        return {"threshold": self.threshold, "norm": "linf", "eps": self.eps, "steps": 1, **test}

    @property
    def all_seeds(self) -> range:
        """The seeds of its trainings."""
        first = FIRST_TEST_SEED if self.split == "test" else 0
        return range(first, first + self.seeds)

    def images(self, source: Source, training: Split) -> Split:
        """Those that are classified, of a data set and the part of it that is trained on."""
        return source.test if self.split == "test" else training

    def has(self, row: Row) -> bool:
        """Whether a row of census.jsonl or overlap.jsonl belongs to this census."""
        seeds = [row[key] for key in ("seed", "seed_a", "seed_b") if key in row]
        same = all(row.get(key) == value for key, value in {"split": None, **self.settings}.items())
        return same and row["epoch"] <= self.epochs and all(seed in self.all_seeds for seed in seeds)


FIRST_TEST_SEED = 1000
"""Of a census of test images: runs that are compared have smaller seeds."""
DECILES_FILE = "deciles.jsonl"


# While a network trains.

OnEpoch = Callable[[int, Answers, Answers], None]
"""Called after each epoch with its number, from 1, and the answers on the images and on their easy copies."""


class EasyCensus(Observer):
    """Confidence and correctness of every training image after each of the first epochs; then the training ends.

    After an epoch every image is classified once more, as it is: in eval mode, through the deployed branch, without
    augmentation, in float32, by the weights as they train (not their moving average). That is exact: the answers of
    one network. It costs a third of an epoch of plain training in passes, and the easy copies a whole one (two forward
    passes, and a backward pass to the images alone). The logits of the training steps would cost nothing, but come
    from a network that changes from step to step, in train mode, on augmented images.

    Args:
        split: the training images.
        on_epoch: called before the checkpoint that follows the epoch is written.
        epochs: after how many epochs.
        copies: makes the easy copies: one step of the easy goal.
        stop: end the training after them. Its schedule is still that of the complete training.
    """

    def __init__(
        self,
        split: Split,
        on_epoch: OnEpoch,
        epochs: int = 1,
        copies: PGD = PGD(Linf(1 / 255), steps=1),
        stop: bool = True,
    ):
        self._split, self._on_epoch, self._epochs, self._copies, self._stop = split, on_epoch, epochs, copies, stop

    def start(self, state: TrainingState) -> None:
        self._end(state)  # a checkpoint of this very end

    def epoch(self, state: TrainingState, row: Row) -> None:
        if row["epoch"] <= self._epochs:
            on_images, on_copies = answers(state.model, self._split, self._copies)
            assert on_copies is not None
            self._on_epoch(row["epoch"], on_images, on_copies)
        self._end(state)

    def _end(self, state: TrainingState) -> None:
        if self._stop and state.step >= self._epochs * state.steps_per_epoch:
            state.stop = True


class _Bar(ProgressBar):
    """The progress bar of a training that ends after ``epochs``."""

    def __init__(self, title: str, display: Progress, epochs: int):
        super().__init__(title, display)
        self._epochs = epochs

    def start(self, state: TrainingState) -> None:
        super().start(state)
        if self._task is not None:
            self._display.update(self._task, total=self._epochs * state.steps_per_epoch)


# The census in a folder.


def census(
    experiment: Experiment, folder: Path, wanted: Census, display: Progress, device: str | None = None
) -> list[Row]:
    """Do what is missing in ``folder`` and return its rows of the census ``wanted``, by ascending epoch and seed.

    Every training is that of ``experiment``, with its schedule, but on all training images (none is held out, so that
    all seeds have the same images), of :attr:`Census.all_seeds`, and ended after the epochs asked for.

    ======================= ======================================================================================
    census.json             the experiment
    census.jsonl            a row per seed, epoch and threshold, see :func:`~easybn.metrics.easy_examples.seed_row`
    overlap.jsonl           a row per pair of seeds, epoch and threshold, see ``overlap_rows`` there
    answers/\\*.safetensors  the answers on each image, see :class:`~easybn.metrics.easy_examples.PairedAnswers`
    easy-\\*.json            the images that are easy after the last epoch in every seed, for ``leave_out``
    random-\\*.json          as many images of each class drawn at random, the control of leaving out
    deciles.jsonl           of a census of test images: how easy each is, see :func:`decile_row`; then no other sets
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
    todo = [seed for seed in wanted.all_seeds if not all(path.exists() for path in _paths(folder, wanted, seed))]
    if todo:
        prepare(experiment)  # a mistake in the model takes no folder
    with Run(folder).locked():
        _claim(folder, experiment, source)
        if todo:
            write_json(folder / "environment.json", [*Run(folder).sessions, environment()])
        for seed in todo:
            training = replace(experiment.training, seed=seed)
            _train(replace(experiment, training=training), source, folder, wanted, display, device)
        return _rows(experiment, source, folder, wanted)


def _paths(folder: Path, wanted: Census, seed: int) -> list[Path]:
    """The files with the answers of a seed, one per epoch."""
    kind = "test-" if wanted.split == "test" else ""
    names = [f"{kind}seed-{seed}-epoch-{epoch}-eps-{wanted.eps:.6g}" for epoch in range(1, wanted.epochs + 1)]
    return [folder / "answers" / f"{name}.safetensors" for name in names]


def _claim(folder: Path, experiment: Experiment, source: Source) -> None:
    path = folder / "census.json"
    about = describe(replace(experiment, training=replace(experiment.training, seed=0)))
    about |= {"classes": list(source.classes)}  # the images are known by their numbers, in the order of the classes
    if path.exists():
        stored = {"classes": about["classes"], **read_json(path, {})}  # older files have no classes
        if different := differences(about, stored):
            raise ValueError(f"{folder} holds another census ({'; '.join(different)}): give another --out")
    else:
        write_json(path, about)


def _train(
    experiment: Experiment, source: Source, folder: Path, wanted: Census, display: Progress, device: str
) -> None:
    prepared, seed = prepare(experiment), experiment.training.seed
    images = wanted.images(source, prepared.train)
    paths = _paths(folder, wanted, seed)
    checkpoint_path = folder / f"seed-{seed}-eps-{wanted.eps:.6g}.pt"
    bar = _Bar(f"{folder.name}, seed {seed}", display, wanted.epochs)

    def save(epoch: int, on_images: Answers, on_copies: Answers) -> None:
        PairedAnswers(images.numbers, images.labels, on_images, on_copies).save(paths[epoch - 1])

    fit(
        prepared.model,
        experiment.recipe,
        prepared.train,
        experiment.training,
        checkpoint=checkpoint_path,
        observers=[bar, EasyCensus(images, save, wanted.epochs, PGD(Linf(wanted.eps), steps=1))],
        device=device,
    )
    checkpoint.forget(checkpoint_path)  # so that another eps or more epochs begin at the start


def _rows(experiment: Experiment, source: Source, folder: Path, wanted: Census) -> list[Row]:
    about = {
        "data": source.name,
        "model": experiment.model,
        "recipe": describe(experiment.recipe)["class"],
        "training_epochs": experiment.training.epochs,
        **wanted.settings,
    }
    rows, pairs, by_seed = [], [], {}
    for epoch in range(1, wanted.epochs + 1):
        paths = {seed: _paths(folder, wanted, seed)[epoch - 1] for seed in wanted.all_seeds}
        by_seed = {seed: PairedAnswers.read(path) for seed, path in paths.items()}
        for seed, paired in by_seed.items():
            row = seed_row(paired, wanted.threshold, source.classes)
            rows.append({**about, "seed": seed, "epoch": epoch, **row, "answers": f"answers/{paths[seed].name}"})
        pairs += [{**about, "epoch": epoch, **row} for row in overlap_rows(by_seed, wanted.threshold)]
    _merge(folder / "census.jsonl", rows, [*wanted.settings, "seed", "epoch"])
    _merge(folder / "overlap.jsonl", pairs, [*wanted.settings, "seed_a", "seed_b", "epoch"])
    if wanted.split == "test":
        row = {**about, "epoch": wanted.epochs, "seeds": list(by_seed), **decile_row(list(by_seed.values()))}
        _merge(folder / DECILES_FILE, [row], [*wanted.settings, "epoch", "seeds"])
        return rows
    for kind, ids in subsets(source, wanted, list(by_seed.values())):
        ids.save(subset_path(folder, wanted, kind))
    return rows


def decile_row(by_seed: Sequence[PairedAnswers]) -> Row:
    """Ten groups of equally many images, from the hardest on, as fields n and deciles of a row.

    An image is the easier the higher the probability of its true class, the mean over trainings; where two are equal
    the one that comes first counts as harder.

    Returns:
        n, the number of images; deciles, a digit for each, in their order: 0 for the hardest tenth, 9 for the easiest.
    """
    of_label = torch.stack([each.images.of_label.double() for each in by_seed]).mean(0)
    rank = torch.empty(len(of_label), dtype=torch.int64)
    rank[torch.argsort(of_label, stable=True)] = torch.arange(len(of_label))
    return {"n": len(of_label), "deciles": "".join(map(str, (10 * rank // len(of_label)).tolist()))}


def _merge(path: Path, rows: list[Row], keys: list[str]) -> None:
    """Replace the rows in the file that have the same ``keys`` as one of ``rows``, and add the others."""
    keys = [*keys, "split"]  # which rows of training images do not have

    def identity(row: Row) -> str:
        return json.dumps([row.get(key) for key in keys])

    new = set(map(identity, rows))
    kept = [row for row in read_rows(path) if identity(row) not in new]
    write_rows(path, [*kept, *rows])


# The easy images, and as many random ones, for trainings that leave them out.


def subset_path(folder: Path, wanted: Census, kind: str = "easy") -> Path:
    """The file of the images that are "easy" in every seed, or of as many "random" ones."""
    return folder / f"{kind}-above-{wanted.threshold:g}-epoch-{wanted.epochs}-seeds-{wanted.seeds}.json"


def subsets(source: Source, wanted: Census, by_seed: Sequence[PairedAnswers]) -> Iterator[tuple[str, SampleIds]]:
    """Two sets of images by name: those that are easy in every training ("easy"), and as many others ("random").

    Args:
        by_seed: the answers of every seed, after the last epoch.
    """
    ids, labels, easy = by_seed[0].ids, by_seed[0].labels, easy_in_all(by_seed, wanted.threshold)
    of_all = len(source.train)
    how = f"confidence above {wanted.threshold:g} after epoch {wanted.epochs} in each of {wanted.seeds} trainings"
    chosen = tuple(ids[easy].tolist())
    yield "easy", SampleIds(source.name, of_all, chosen, f"easy: {how}", source.classes)
    drawn = permutation(len(ids), 0, "census control")
    control: list[int] = []
    for label in range(len(source.classes)):
        of_class = drawn[labels[drawn] == label][: int((easy & (labels == label)).sum())]
        control += ids[of_class].tolist()
    like = f"random, as many of each class as are easy: {how}"
    yield "random", SampleIds(source.name, of_all, tuple(sorted(control)), like, source.classes)


# The census as a table.

HEADINGS = ["images", "easy", "easy, %", "easy copies, %"]


def census_table(rows: Sequence[Row], pairs: Sequence[Row]) -> Table:
    """Easy images and easy copies of each class after the last epoch, mean over seeds with its 95% interval.

    Args:
        rows: of :func:`census`, of any epochs.
        pairs: of overlap.jsonl, of the same census.
    """
    last = max(row["epoch"] for row in rows)
    shown = [row for row in rows if row["epoch"] == last]
    first = shown[0]
    table_rows = [
        TableRow(of_class["class"], _cells([row["per_class"][label] for row in shown]))
        for label, of_class in enumerate(first["per_class"])
    ]
    title = (
        f"{first['model']} ({first['recipe'].rpartition('.')[2]}) on {first['data']} after epoch {last} of "
        f"{first['training_epochs']}: easy is correct with a confidence above {first['threshold']:g}"
    )
    return Table(title, "Class", HEADINGS, [*table_rows, TableRow("all", _cells(shown))], _caption(rows, pairs))


def _caption(rows: Sequence[Row], pairs: Sequence[Row]) -> str:
    """What the figures are of: seeds, overlap of seeds, easy copies, earlier epochs."""
    last = max(row["epoch"] for row in rows)
    shown = [row for row in rows if row["epoch"] == last]
    seeds = len(shown)
    spread = f"Means over {seeds} seeds ± the half-width of their 95% interval (t). " if seeds > 1 else "One seed. "
    text = spread + f"Accuracy on these images: {_percent(shown, 'accuracy')}. "
    if last_pairs := [pair for pair in pairs if pair["epoch"] == last]:
        text += (
            f"Overlap of the easy ones of two seeds, {len(last_pairs)} pair{'s' * (len(last_pairs) > 1)}: "
            f"Jaccard {_mean(last_pairs, 'jaccard')} ({_mean(last_pairs, 'jaccard_by_chance')} by chance), "
            f"Cohen's kappa {_mean(last_pairs, 'kappa')}. "
        )
    shift = aggregate([100 * row["confidence_shift"] for row in shown])
    text += (
        f"Easy copies: one easy step of {format_eps(shown[0]['eps'], 'linf')} in linf for the same network; the "
        f"label's confidence moves by {'+' * (shift.mean >= 0)}{mean_cell(shift, 1)} points."
    )
    if last > 1:
        epochs = sorted({row["epoch"] for row in rows})
        shares = [f"{e}: {_percent([row for row in rows if row['epoch'] == e], 'easy_share')}" for e in epochs]
        text += f" Easy by epoch, in %: {', '.join(shares)}."
    return text


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    n, easy = rows[0]["n"], aggregate([row["easy"] for row in rows])
    if not n:
        return [Cell("0", 0), Cell("0", 0), Cell(), Cell()]
    shares = [aggregate([100 * row[name] / n for row in rows]) for name in ("easy", "copies_easy")]
    counts = [Cell(f"{n:,}", n), Cell(f"{easy.mean:,.0f}", easy.mean, seeds=easy.seeds)]
    return [*counts, *(mean_cell(share, 1, n) for share in shares)]


def _percent(rows: Sequence[Row], key: str) -> str:
    return mean_cell(aggregate([100 * row[key] for row in rows]), 1).text


def _mean(pairs: Sequence[Row], key: str) -> str:
    values = [pair[key] for pair in pairs if pair[key] is not None]
    return f"{sum(values) / len(values):.2f}" if values else "undefined"
