"""AutoAttack, or a list of attacks, on a model's test images: verdicts in its folder, and a row a radius."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress as Display

from .. import data
from ..attacks.registry import PRESETS
from ..evaluation import Evaluation, evaluate
from ..evaluation.config import Choice
from ..evaluation.diagnostics import Finding
from ..evaluation.estimate import Estimate, estimate
from ..evaluation.store import Store
from ..evaluation.verdicts import pack_bits, points_digest
from ..json_files import Row
from ..keyed_random import permutation
from ..progress import OnProgress, ProgressBars, silent
from .run import Run
from .target import EvaluationTarget

# Measure a finished run on the test split, once: what its scores.jsonl holds is not measured again.


@dataclass(frozen=True)
class Measurement:
    """What to measure: clean accuracy on the whole test split, and PGD on a part of it.

    Args:
        norm: "l2" or "linf".
        eps: radii in [0, 1] pixel units.
        protocols: of PGD: "robustness", "strong" or both.
        steps: gradient steps an image, for each loss.
        points: test images attacked, drawn by ``seed``; all of them if there are no more.
        batch_size: part of what the ``robustness`` protocol measures, and recorded.
        seed: of the draw.
        device: where to compute; the CPU by default.
        diagnosed: look for what makes the figures misleading.
    """

    norm: str = "l2"
    eps: tuple[float, ...] = (0.1, 0.5, 1.0)
    protocols: tuple[str, ...] = ("robustness", "strong")
    steps: int = 100
    points: int = 1000
    batch_size: int = 100
    seed: int = 0
    device: str | None = None
    diagnosed: bool = True

    def __post_init__(self) -> None:
        for name in ("points", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def has_rows(self, scores: Sequence[Row], branch: str) -> bool:
        """Whether all that is wanted of a branch is among the scores."""
        how = {"attack": "pgd", "norm": self.norm, "steps": self.steps, "points_seed": self.seed, "branch": branch}
        how |= {"requested_batch_size": self.batch_size}
        pgd = [how | {"protocol": protocol, "eps": float(eps)} for protocol in self.protocols for eps in self.eps]
        clean = {"attack": "clean", "branch": branch}
        return has_row(scores, clean) and all(has_row(scores, each, self.points) for each in pgd)


def has_row(scores: Sequence[Row], wanted: Row, points: int | None = None) -> bool:
    """Whether a row has these values; a key that it lacks, being of an earlier version, counts as equal.

    Args:
        points: of the row; a data set that has fewer gives as many as its clean accuracy is of.
    """
    every = max((row["n"] for row in scores if row["attack"] == "clean"), default=0)
    for row in scores:
        if all(row.get(name, value) == value for name, value in wanted.items()):
            images = row.get("test_images", points)
            if points is None or images == points or images == every < points:
                return True
    return False


def score(
    run: Run, display: Display, wanted: Measurement = Measurement(), evaluated: EvaluationTarget | None = None
) -> None:
    """Measure what is ``wanted`` and not yet among the run's scores.

    Args:
        display: of :func:`easybn.progress.progress_display`, already live.
        evaluated: the model and its images; by default those of the run.

    Raises:
        FileNotFoundError: the run is not finished.
        BusyError: another process is at work there.
        ValueError: an unknown norm or protocol, or a number out of range.
    """
    what = evaluated or EvaluationTarget.of_run(run)
    progress = ProgressBars(display, run.folder.name, "evaluation")
    what.check()  # a mistake in the model, the data or the labels leaves no folder behind
    what.claim()
    with run.locked():
        _clean(what, wanted, progress)
        for protocol in wanted.protocols:
            _pgd(what, wanted, protocol, progress)


def test_points(source: data.Source, points: int, seed: int) -> torch.Tensor:
    """The numbers of ``points`` test images drawn by ``seed``, ascending; all of them if there are no more."""
    count = len(source.test)
    return permutation(count, seed, "test points")[: min(points, count)].sort().values


def _clean(what: EvaluationTarget, wanted: Measurement, progress: OnProgress) -> None:
    count = len(what.source.test)
    request = {"branch": what.branch, "attack": "clean", "test_images": count}
    if not _known(what.run, request):
        _measure(what, torch.arange(count), request, progress, wanted.device, attacks="clean", batch_size=500)


def _pgd(what: EvaluationTarget, wanted: Measurement, protocol: str, progress: OnProgress) -> None:
    index = test_points(what.source, wanted.points, wanted.seed)
    request = {
        "branch": what.branch,
        "attack": "pgd",
        "protocol": protocol,
        "norm": wanted.norm,
        "steps": wanted.steps,
        "test_images": len(index),
        "points_seed": wanted.seed,
        "requested_batch_size": wanted.batch_size,
    }
    radii = [e for e in wanted.eps if not _known(what.run, {**request, "eps": float(e)})]
    if not radii:
        return
    if protocol == "strong":
        radii = list(wanted.eps)  # together: what falls at one radius counts at every larger one
    how = {"norm": wanted.norm, "eps": radii, "protocol": protocol, "steps": wanted.steps}
    how["diagnosis"] = wanted.diagnosed
    _measure(what, index, request, progress, wanted.device, **how, batch_size=wanted.batch_size)


def _known(run: Run, wanted: dict[str, Any]) -> bool:
    return any(all(row.get(name) == value for name, value in wanted.items()) for row in run.scores)


def _measure(
    what: EvaluationTarget,
    index: torch.Tensor,
    request: dict[str, Any],
    progress: OnProgress,
    device: str | None,
    **how: Any,
) -> None:
    model = what.model.to(device or "cpu")
    x, y = what.source.test.batch(index)
    began = time.monotonic()
    result = evaluate(model, x, y, progress=progress, **how)
    seconds = round(time.monotonic() - began, 1)
    rows = [score for score in result.scores if score.attack == request["attack"]]
    shared = {"data": what.source.name, **request, "seconds": seconds, "notes": [*what.notes, *result.remarks]}
    shared["points"] = points_digest(index.tolist())  # with the verdict on each, for tests of two runs point by point
    right = {score: result.clean if score.eps is None else result.robust_at[score.eps] for score in rows}
    made = [
        {**shared, **each.to_dict(), "accuracy": each.accuracy, "right": pack_bits(of)} for each, of in right.items()
    ]
    if result.findings:  # once, though they are of all these rows
        made[0]["findings"] = [asdict(finding) for finding in result.findings]
    what.run.add_scores(made)


POINTS = 1000
FAST = {"compile": False, "precision": "float32"}  # what rows and folders without these fields were made with


@dataclass(frozen=True)
class Attacks:
    """What to measure; fields as of :func:`easybn.evaluate` and :class:`~easybn.runs.evaluate.Measurement`.

    Args:
        points: test images, drawn by ``seed``; by default 1000, and under a budget as many as fit.
        budget: seconds for each model.
        diagnosed: look for what makes the figures misleading.
    """

    attacks: tuple[str, ...]
    norm: str
    eps: tuple[float, ...]
    points: int | None = None
    seed: int = 0
    batch_size: int = 256
    chunk: int | None = None
    shard: tuple[int, int] | None = None
    budget: float | None = None
    keep_images: bool = False
    share: bool = True
    compile: bool = False
    precision: str = "float32"
    device: str | None = None
    diagnosed: bool = True

    def __post_init__(self) -> None:
        choice = Choice(self.attacks, self.norm)
        for eps in self.eps:  # a mistake is told before anything is loaded
            choice.at(eps)
        object.__setattr__(self, "attacks", choice.names)
        if self.points is not None and self.points < 1:
            raise ValueError(f"points must be at least 1, got {self.points}")

    def has_rows(self, scores: Sequence[Row], branch: str) -> bool:
        """Whether all that is wanted of a branch is among the scores."""
        preset = self.attacks[0] if self.attacks[0] in PRESETS else None
        how: dict[str, Any] = {
            "attack": "autoattack" if preset else "+".join(self.attacks),
            "protocol": preset,
            "norm": self.norm,
        }
        how |= {"points_seed": self.seed, "requested_batch_size": self.batch_size, "branch": branch}
        how |= {"share": self.share, "budget": self.budget, **{name: getattr(self, name) for name in FAST}}
        attacked = [] if self.attacks == ("clean",) else [how | {"eps": float(eps)} for eps in self.eps]
        points = None if self.budget else self.points or POINTS
        clean = {"attack": "clean", "branch": branch}
        return has_row(scores, clean) and all(has_row(scores, each, points) for each in attacked)

    def index(self, evaluated: EvaluationTarget) -> torch.Tensor:
        """int64 (n,), the numbers of the test images, ascending."""
        every = len(evaluated.source.test)
        return test_points(evaluated.source, self.points or (every if self.budget else POINTS), self.seed)

    def folder(self, evaluated: EvaluationTarget) -> Path:
        """Of the verdicts: a readable name, and a digest of all that was asked."""
        names = ("attacks", "norm", "eps", "points", "seed", "batch_size", "chunk", "keep_images", "share")
        asked: dict[str, Any] = {name: getattr(self, name) for name in names} | {"in random order": bool(self.budget)}
        asked |= {"branch": evaluated.branch}
        asked |= {name: getattr(self, name) for name, usual in FAST.items() if getattr(self, name) != usual}
        digest = hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=4).hexdigest()
        words = [*([] if evaluated.branch == "main" else [evaluated.branch]), "+".join(self.attacks), self.norm]
        return evaluated.run.folder / "verdicts" / "-".join([*words, *(f"{eps:.4g}" for eps in self.eps), digest])


@dataclass(frozen=True)
class Result:
    """What was measured of one model.

    Args:
        evaluation: on the points that are done.
        store: the folder of the verdicts.
        seconds: of this session.
    """

    evaluation: Evaluation
    store: Path
    seconds: float

    @property
    def findings(self) -> Sequence[Finding]:
        """Of the diagnosis."""
        return self.evaluation.findings


def measure(evaluated: EvaluationTarget, wanted: Attacks, progress: OnProgress = silent) -> Result:
    """Do what is missing of the verdicts; once all are there, add the rows that the scores do not have yet.

    Raises:
        ValueError: anything out of range; verdicts of another model in the folder.
        OSError: something cannot be written; what was stored is whole.
    """
    model, store = evaluated.model.to(wanted.device or "cpu"), wanted.folder(evaluated)
    index = wanted.index(evaluated)
    x, y = evaluated.source.test.batch(index)
    evaluated.check()  # a mistake in the model, the data or the labels leaves no folder behind
    evaluated.claim()
    began = time.monotonic()
    found = evaluate(
        model, x, y,
        norm=wanted.norm, eps=wanted.eps, attacks=wanted.attacks, share=wanted.share, seed=wanted.seed,
        batch_size=wanted.batch_size, keep_images=wanted.keep_images, ids=index, store=store, chunk=wanted.chunk,
        shard=wanted.shard, budget=wanted.budget, compile=wanted.compile, precision=wanted.precision,
        diagnosis=wanted.diagnosed, branch=evaluated.branch, progress=progress,
    )  # fmt: skip
    seconds = time.monotonic() - began
    if found.complete or wanted.budget:
        _add_rows(evaluated, wanted, found, Store.existing(store).seconds)
    return Result(found, store, seconds)


def time_needed(evaluated: EvaluationTarget, wanted: Attacks) -> Estimate:
    """How long :func:`measure` would take if nothing was there yet."""
    evaluated.check()
    index = wanted.index(evaluated)
    x, y = evaluated.source.test.batch(index[: wanted.batch_size])
    model = evaluated.model.to(wanted.device or "cpu")
    how: dict[str, Any] = {"norm": wanted.norm, "eps": wanted.eps, "attacks": wanted.attacks}
    how |= {name: getattr(wanted, name) for name in FAST}
    return estimate(model, x, y, **how, points=len(index), batch_size=wanted.batch_size)


def _add_rows(evaluated: EvaluationTarget, wanted: Attacks, found: Evaluation, seconds: float) -> None:
    clean, *attacked = found.scores
    known = {"points_seed": wanted.seed, "requested_batch_size": wanted.batch_size, "branch": evaluated.branch}
    known |= {"share": wanted.share, "budget": wanted.budget, "test_images": len(found.clean)}
    known |= {name: getattr(wanted, name) for name in FAST}
    record = found.record
    spent = {"forwards": int(record.forwards.sum()), "backwards": int(record.backwards.sum())}
    shared = {"data": evaluated.source.name, **known, "seconds": round(seconds, 1), **spent}
    shared["notes"] = [*evaluated.notes, *found.remarks]
    with evaluated.run.locked(timeout=60):
        rows = evaluated.run.scores
        new = []
        if not any(row["attack"] == "clean" and row.get("branch", "main") == evaluated.branch for row in rows):
            new.append(clean)
        for score in attacked:
            wanted_row = {**known, "attack": score.attack, "protocol": score.protocol, "norm": score.norm}
            wanted_row |= {"eps": score.eps}
            if wanted.budget:
                wanted_row.pop("test_images")
            if not any(
                all(row.get(name, FAST.get(name)) == value for name, value in wanted_row.items()) for row in rows
            ):
                new.append(score)
        if new:
            evaluated.run.add_scores([{**shared, **score.to_dict(), "accuracy": score.accuracy} for score in new])
