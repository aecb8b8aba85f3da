"""A run in experiment trackers: its training, and the scores of later evaluations in the same run there."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..json_files import Row
from ..train.trackers import TRACKERS, About, check_trackers
from ..train.tracking import Sender, Tracking, closed, flat
from .config import Experiment
from .description import describe
from .run import BusyError, Run, alone

FOLDER = "tracking"


def tracking_of(run: Run, names: Sequence[str], experiment: Experiment) -> Tracking:
    """The observer that reports a training in the folder of ``run``; trackers show the folder's name.

    Raises:
        ValueError: see :class:`~easybn.train.tracking.Tracking`.
    """
    config = {**describe(experiment), "digest": experiment.digest}
    return Tracking(names, _name(run), run.folder / FOLDER, config, run.folder / "metrics.jsonl")


def send_scores(run: Run) -> dict[str, str]:
    """Send scores that trackers of this run do not have yet, and what else they have missed.

    Returns:
        {tracker: what is wrong with it, or ""}; empty if the run is in none.
    """
    folder = run.folder / FOLDER
    names = [name for name in TRACKERS if (folder / f"{name}.json").exists()]
    if not names or not (rows := run.metrics) or not (scored := run.scores):
        return {}
    scores = [(score_name(row), row["correct"] / row["n"]) for row in scored]
    about = About(_name(run), folder, flat(run.config))
    problems, senders = {}, []
    try:
        with alone(folder / ".lock", "process", timeout=60):
            for name in names:
                try:
                    check_trackers([name])
                except ValueError as error:
                    problems[name] = str(error)
                    continue
                senders.append(Sender(name, about))
                for row in rows:
                    senders[-1].row(row)
                senders[-1].scores(scores, rows[-1]["step"])
            problems |= closed(senders, done=True)
    except BusyError as error:
        return dict.fromkeys(names, str(error))
    return {name: problems.get(name, "") for name in names}


def score_name(row: Row) -> str:
    """The name of a score in trackers: ``scores/main/clean``, ``scores/main/pgd-strong/linf-0.03137``."""
    attack = "-".join(filter(None, (row["attack"], row.get("protocol"))))
    eps = [] if row.get("eps") is None else [f"{row['norm']}-{float(row['eps']):.4g}"]
    words = ["scores", row.get("branch") or "main", attack, *eps]
    return "/".join(re.sub(r"[^\w.-]", "-", word) for word in words)  # what all of them take


def _name(run: Run) -> str:
    return Path(run.folder).resolve().name
