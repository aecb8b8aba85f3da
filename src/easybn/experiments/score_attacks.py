"""AutoAttack, or a list of attacks, on a model's test images: verdicts in its folder, and a row a radius."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..attacks.prepare import Progress, silent
from ..attacks.suite import PRESETS
from ..evaluation import Evaluation, evaluate
from ..evaluation.choice import Choice
from ..evaluation.diagnose import Finding
from ..evaluation.estimate import Estimate, estimate
from ..evaluation.store import Store
from ..rows import Row
from .evaluated import Evaluated
from .score_run import has_row, test_points

POINTS = 1000
FAST = {"compile": False, "precision": "float32"}  # what rows and folders without these fields were made with


@dataclass(frozen=True)
class Attacks:
    """What to measure; fields as of :func:`easybn.evaluate` and :class:`~easybn.experiments.score_run.Measurement`.

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

    def index(self, evaluated: Evaluated) -> torch.Tensor:
        """int64 (n,), the numbers of the test images, ascending."""
        every = len(evaluated.source.test)
        return test_points(evaluated.source, self.points or (every if self.budget else POINTS), self.seed)

    def folder(self, evaluated: Evaluated) -> Path:
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
        seconds: of this sitting.
    """

    evaluation: Evaluation
    store: Path
    seconds: float

    @property
    def findings(self) -> Sequence[Finding]:
        """Of the diagnosis."""
        return self.evaluation.findings


def measure(evaluated: Evaluated, wanted: Attacks, progress: Progress = silent) -> Result:
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


def time_needed(evaluated: Evaluated, wanted: Attacks) -> Estimate:
    """How long :func:`measure` would take if nothing was there yet."""
    evaluated.check()
    index = wanted.index(evaluated)
    x, y = evaluated.source.test.batch(index[: wanted.batch_size])
    model = evaluated.model.to(wanted.device or "cpu")
    how: dict[str, Any] = {"norm": wanted.norm, "eps": wanted.eps, "attacks": wanted.attacks}
    how |= {name: getattr(wanted, name) for name in FAST}
    return estimate(model, x, y, **how, points=len(index), batch_size=wanted.batch_size)


def _add_rows(evaluated: Evaluated, wanted: Attacks, found: Evaluation, seconds: float) -> None:
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
