"""Sends a training to experiment trackers, each in a thread of its own: a slow or broken one delays and ends nothing.

What a tracker has taken is written down beside it (``FOLDER/NAME.json``), so that a resumed training continues the same
run there, and so do the scores of a later evaluation. What it has missed, being out of reach, it is sent then.
"""

import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attacks.model_call import one_line
from ..json_files import read_json, read_rows, write_json
from ..modes import copied
from ..recipes.recipe import Context
from ..rows import METRICS
from .observers import Observer, TrainingState
from .prepare import CopiesInput, seeded
from .trackers import FINISH_SECONDS, TRACKERS, About, check_trackers, log_in_to_wandb


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as a flat one, the keys joined by slashes; lists and None as text."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flattened |= flat(value, f"{prefix}{key}/")
        else:
            flattened[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flattened


def curves(row: dict[str, Any]) -> dict[str, float]:
    """An epoch's row as trackers get it: ``epoch``, ``lr``, ``train/main/loss``, ``val/easy/accuracy`` and so on."""
    return flat({name: row[name] for name in ("epoch", "lr", "train", "val") if name in row})


class Sender:
    """One run in one tracker, opened and written by a thread.

    Args:
        name: of the tracker.
        about: the run.
        new: whether to begin a new run, rather than to continue the one that was begun here.
    """

    def __init__(self, name: str, about: About, new: bool = False):
        self.name = name
        self._about, self._new = about, new
        self._path = about.folder / f"{name}.json"
        self._kept: dict[str, Any] = {}
        self._tracker: Any = None
        self._error: Exception | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=copy_context().run, args=(self._work,), name=name, daemon=True)
        self._thread.start()

    def row(self, row: dict[str, Any]) -> None:
        """Send an epoch's row, unless it was sent before."""
        self._jobs.put(lambda: self._send_row(row))

    def images(self, pictures: dict[str, np.ndarray], step: int) -> None:
        """Send pictures, uint8 (H, W, 3)."""
        self._jobs.put(lambda: self._tracker.images(pictures, step))

    def scores(self, scores: Sequence[tuple[str, float]], step: int) -> None:
        """Send the scores, a list that only grows, that were not sent before."""
        self._jobs.put(lambda: self._send_scores(scores, step))

    def close(self, done: bool) -> None:
        """Send no more; :meth:`problem` waits for what is on its way."""
        self._jobs.put(lambda: self._tracker.close(done))
        self._jobs.put(None)

    def problem(self, seconds: float = 0.0) -> str | None:
        """What is wrong with the tracker, once; until it is closed, only whether it has failed.

        Args:
            seconds: to wait for a closed one.
        """
        if seconds:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return f"has not taken everything within {FINISH_SECONDS:.0f} seconds"
        error, self._error = self._error, None
        return None if error is None else f"failed ({one_line(error)})"

    def _work(self) -> None:
        try:
            self._kept = {} if self._new else read_json(self._path, {})
            self._keep()  # first, so that one that is out of reach gets everything later
            self._tracker = TRACKERS[self.name](self._about, self._kept)
            self._keep(**self._tracker.kept)
            while (job := self._jobs.get()) is not None:
                job()
        except Exception as error:  # of a package, a disk or a network, and none of the training's business
            self._error = error

    def _send_row(self, row: dict[str, Any]) -> None:
        if row["step"] > self._kept.get("step", 0):  # a resumed training is the same one: its rows are, too
            self._tracker.log(curves(row), row["step"])
            self._keep(step=row["step"])

    def _send_scores(self, scores: Sequence[tuple[str, float]], step: int) -> None:
        if new := scores[self._kept.get("scores", 0) :]:
            self._tracker.scores(dict(new), step)
            self._keep(scores=len(scores))

    def _keep(self, **values: Any) -> None:
        self._kept |= values
        write_json(self._path, self._kept)


def closed(senders: Sequence[Sender], done: bool) -> dict[str, str]:
    """Close them all, wait at most ``FINISH_SECONDS``, and say what is wrong with which."""
    for sender in senders:
        sender.close(done)
    until = monotonic() + FINISH_SECONDS
    problems = {sender.name: sender.problem(max(until - monotonic(), 0.01)) for sender in senders}
    return {name: problem for name, problem in problems.items() if problem}


class Tracking(Observer):
    """Sends a training to experiment trackers.

    Every epoch the learning rate and each term's and branch's loss and accuracy (:func:`curves`); after the first and
    the last epoch pictures of what the recipe sees (:func:`pictures`); the configuration at the start. A tracker that
    fails is left out from then on, with one warning, and the training goes on.

    Args:
        names: some of tensorboard, wandb, trackio, mlflow; their packages must be installed.
        run_name: the name that trackers show.
        folder: where those that write files put them, and where it says which run of a tracker is continued.
        config: the run's configuration, nested as in JSON; trackers get it flattened.
        metrics: the file of :class:`~easybn.train.observers.MetricsFile`: rows of earlier sessions that a tracker lacks
            are sent from it.

    Raises:
        ValueError: an unknown tracker, or one whose package or key is missing.
    """

    def __init__(
        self, names: Sequence[str], run_name: str, folder: Path, config: dict[str, Any], metrics: Path | None = None
    ):
        self._names = list(dict.fromkeys(names))
        check_trackers(self._names)
        if "wandb" in self._names:
            log_in_to_wandb()
        self._about = About(run_name, Path(folder), flat(config))
        self._metrics = metrics
        self._shows = True
        self._senders: list[Sender] = []

    def start(self, state: TrainingState) -> None:
        # without a file of metrics, what begins at step 0 need not be what has begun here before
        new = self._metrics is None and state.step == 0
        self._senders = [Sender(name, self._about, new) for name in self._names]
        earlier = read_rows(self._metrics, METRICS, cut="left out") if self._metrics else []
        for row in earlier:
            for sender in self._senders:
                sender.row(row)

    def epoch(self, state: TrainingState, row: dict[str, Any]) -> None:
        for sender in self._senders:
            sender.row(row)
        if self._senders and self._shows and row["epoch"] in (1, state.training.epochs):
            self._show_pictures(state)
        for sender in list(self._senders):
            if problem := sender.problem():
                self._senders.remove(sender)
                warnings.warn(f"the tracker {sender.name} {problem}: the training goes on without it")

    def end(self, state: TrainingState) -> None:
        senders, self._senders = self._senders, []
        for name, problem in closed(senders, state.step == state.total_steps).items():
            warnings.warn(f"the tracker {name} {problem}: it gets the rest when this training is resumed or evaluated")

    def _show_pictures(self, state: TrainingState) -> None:
        try:
            found = {f"images/{name}": picture for name, picture in pictures(state).items()}
        except Exception as error:  # a model that cannot be copied, a recipe that wants other batches
            self._shows = False
            warnings.warn(f"trackers get no pictures of what the recipe sees: {one_line(error)}")
            return
        for sender in self._senders:
            sender.images(found, state.step)


# Pictures of what the recipe sees.

IMAGES = 8


def pictures(state: TrainingState) -> dict[str, np.ndarray]:
    """For each term of the recipe a picture of the images that its loss is of: {term: uint8 (3 H, 8 W, 3)}.

    Rows: images of the last batch as they were drawn, as the term's forward pass got them, and the difference, grey
    where there is none and stretched to black and white. A term of fewer images (Fast AdvProp's) shows those. A copy of
    the model computes them, of which nothing stays.
    """
    if state.batch is None or (state.training.sync_batchnorm and state.processes.count > 1):
        return {}  # whose batch norms would wait for the other processes
    x, y, ids = (part[:IMAGES] for part in state.batch)
    model = CopiesInput(copied(state.model))
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    training, found = state.training, {}
    terms = iter(state.recipe(model, x, y, Context(ids, state.step, int(state.epoch), training.seed)))
    with ExitStack() as stack:
        stack.enter_context(seeded(training.seed, state.step, x.device, state.processes.rank))
        if isinstance(terms, Generator):
            stack.enter_context(closing(terms))  # after an error: restores the recipe's route and modes now
        for term in terms:
            # a later term may use the gradient again
            (term.loss * term.weight).backward()  # type: ignore[no-untyped-call]
            if seen:
                found[term.name] = _sheet(x, seen[-1])
            seen.clear()
    return found


def _sheet(x: Tensor, seen: Tensor) -> np.ndarray:
    x, seen = x.float().cpu(), seen.float().cpu()
    rows = [seen]
    if seen.shape[1:] == x.shape[1:]:
        originals = x[torch.cdist(seen.flatten(1), x.flatten(1)).argmin(1)]
        change = seen - originals
        rows = [originals, seen, 0.5 + change / (2 * change.abs().max().clamp(min=1e-12))]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # (C, rows * H, images * W)
    colours = sheet[:3] if len(sheet) >= 3 else sheet[:1].expand(3, -1, -1)
    return (colours.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
