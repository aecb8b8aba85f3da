"""Instruments on a trained model: what they measure are rows in its folder, and are not measured again.

The values of an instrument are added to ``analysis.jsonl`` in one step when all of them are there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..json_files import Row, read_rows, write_rows
from ..metrics.instrument import Instrument, Measured, Subject
from ..norm.convert import branches_of
from ..progress import OnProgress, silent
from ..rows import ANALYSIS, is_number
from ..train.prepare import usable_device
from .description import describe
from .evaluate import draw_test_points
from .kept_epochs import kept_epochs, network_after
from .target import EvaluationTarget, branched_model

ANALYSIS_FILE = "analysis.jsonl"


@dataclass(frozen=True)
class Analysis:
    """What to measure.

    Args:
        instruments: with their fields, see :func:`easybn.metrics.registry.instruments`.
        images: number of test images, drawn by ``seed``, at most all; None for what each instrument takes by default.
        seed: of the draw, and of whatever an instrument draws.
        batch_size: images per pass; does not change results but for rounding.
        epochs: whether the networks that were kept during the training (:mod:`.kept_epochs`) are measured too.
    """

    instruments: Sequence[Instrument]
    images: int | None = None
    seed: int = 0
    batch_size: int = 100
    epochs: bool = False

    def __post_init__(self) -> None:
        if not self.instruments:
            raise ValueError("instruments must be at least one, got none")
        for name, low in (("images", 2), ("batch_size", 1), ("seed", 0)):  # one image has no interval
            if (value := getattr(self, name)) is not None and value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")

    def request(self, instrument: Instrument, target: EvaluationTarget) -> Row:
        """The fields that identify the rows of an instrument, but for the epoch."""
        settings = describe(instrument)
        return {
            "instrument": instrument.name,
            "settings": {key: value for key, value in settings.items() if key != "class"},
            "data": target.source.name,
            "branch": target.branch,
            "images": min(self.images or instrument.images, len(target.source.test)),
            "seed": self.seed,
        }


def analyse_run(
    target: EvaluationTarget, analysis: Analysis, on_progress: OnProgress = silent, device: str | None = None
) -> list[str]:
    """Measure what the folder does not have yet, and add its rows.

    A row is the request of its instrument (:meth:`Analysis.request`), the names of the ``branches`` that were there,
    and the fields of :class:`easybn.metrics.instrument.Measured`. Rows of networks kept during the training have their
    ``epoch``.

    Args:
        target: the model, its images and the folder of its results; instruments that compare branches get those of the
            run's checkpoint too, where it is there.
        analysis: what to measure.
        on_progress: called by the instruments, with the name of the instrument before their words.
        device: by default CUDA where there is one, else the CPU.

    Returns:
        What a reader should know, in words: why branches could not be compared, or that no epochs were kept.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is working there.
        ValueError: a model or number of images that an instrument cannot take, or no such device; the rows of the
            instruments before it are kept.
    """
    device = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    target.check()  # a mistake in the model or the data leaves no folder behind
    target.claim()
    branched, why = branched_model(target.run) if target.branch == "main" else (None, "one branch was asked for")
    notes = []
    with target.run.locked():
        for instrument in analysis.instruments:
            known = _measure(target, analysis, instrument, target.model, branched, on_progress, device)
            if instrument.branches and len(known) < 2 and why:
                notes.append(f"{target.run.folder}: {instrument.name}: branches are not compared: {why}")
        if analysis.epochs:
            epochs = kept_epochs(target.run) if target.branch == "main" else []
            for epoch in epochs:
                model, branched = network_after(target.run, epoch)
                for instrument in analysis.instruments:
                    _measure(target, analysis, instrument, model, branched, on_progress, device, epoch)
            if not epochs:
                why = "easybn train --keep_epochs keeps them" if target.branch == "main" else "of the main branch only"
                notes.append(f"{target.run.folder}: no networks of epochs: {why}")
    return notes


def _measure(
    target: EvaluationTarget,
    analysis: Analysis,
    instrument: Instrument,
    model: nn.Module,
    branched: nn.Module | None,
    on_progress: OnProgress,
    device: str,
    epoch: int | None = None,
) -> set[str]:
    """Measure a network unless its rows are there, and add them; returns the branches that they are of."""
    path, request = target.run.folder / ANALYSIS_FILE, analysis.request(instrument, target)
    rows = read_rows(path, ANALYSIS)
    there = list(branches_of(branched)) if instrument.branches and branched else [target.branch]
    old = [row for row in rows if row.get("epoch") == epoch and _is_of(row, request)]
    known = {name for row in old for name in row.get("branches", ())}
    if known.issuperset(there):
        return known
    subject = Subject(
        model=model.to(device),
        split=target.source.test,
        ids=draw_test_points(target.source, request["images"], request["seed"]),
        classes=len(target.source.classes),
        branch=target.branch,
        branched=branched.to(device) if instrument.branches and branched else None,
        seed=request["seed"],
        batch_size=analysis.batch_size,
    )
    words = instrument.name if epoch is None else f"epoch {epoch}, {instrument.name}"
    found = instrument.measure(subject, _named(on_progress, words))
    request |= {} if epoch is None else {"epoch": epoch}
    new = [{**request, "branches": there, **_checked(each, instrument.name)} for each in found]
    write_rows(path, [*(row for row in rows if row not in old), *new])
    return set(there)


def rows_of(target: EvaluationTarget, analysis: Analysis) -> dict[str, list[Row]]:
    """The rows by the name of their instrument, in order; those of epochs are among them if they were asked for."""
    rows = read_rows(target.run.folder / ANALYSIS_FILE, ANALYSIS)
    if not analysis.epochs:
        rows = [row for row in rows if row.get("epoch") is None]
    requests = {each.name: analysis.request(each, target) for each in analysis.instruments}
    return {name: [row for row in rows if _is_of(row, request)] for name, request in requests.items()}


def _is_of(row: Row, request: Row) -> bool:
    return all(row.get(key) == value for key, value in request.items())


def _named(on_progress: OnProgress, name: str) -> OnProgress:
    """The callback for an instrument of this name."""
    return lambda done, total, what: on_progress(done, total, f"{name}, {what}")


def _checked(each: Measured, name: str) -> Row:
    """A value as fields of a row; ValueError if it is no finite number, which no figure could show."""
    numbers = [each.value, each.depth, *(end for end in (each.low, each.high) if end is not None)]
    if not all(is_number(number) for number in numbers):
        raise ValueError(f"{name}: {each.measure} at {each.place} is not finite: {each.value}")
    return {**each._asdict(), "detail": dict(each.detail)}
