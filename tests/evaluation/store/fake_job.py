"""A cheap job whose every number follows from point and stage; as a script, one process that works on it.

    python fake_job.py FOLDER LOG [hold] [shard I N]

It prints a line at every iteration of a stage and appends one to LOG when a stage begins anew. With "hold" it stops
in its first stage, having printed "holding CHUNK", until a line comes on its standard input.
"""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easybn.evaluation.record import CLEAN, Record
from easybn.evaluation.store import Manifest, StageResult, Store, Task, work

ITERATIONS, TARGETS = 4, 3
POINTS = tuple(range(100, 0, -4))  # not ascending, not from 0


def manifest(**changes: Any) -> Manifest:
    fields = {
        "model": "m", "data": "d", "points": POINTS, "norm": "l2", "eps": (0.25, 1.0),
        "attacks": ("apgd-ce", "fab-t", "square"), "chunk": 6, "keep_images": True,
    }  # fmt: skip
    return Manifest(**(fields | changes))


def number(*name: Any) -> float:
    """In [0, 1), a function of the name."""
    return int(hashlib.md5(repr(name).encode()).hexdigest()[:8], 16) / 2**32


@dataclass
class Fake:
    """``run_stage``: every iteration adds to a sum, so that a wrong state to go on from shows in the margins."""

    log: Path | None = None
    talk: bool = False
    hold: bool = False

    def __call__(self, task: Task) -> StageResult:
        state = task.resume()
        if state is None:
            state = {"i": 0, "sum": torch.zeros(len(task.points), dtype=torch.float64)}
            self._log(f"{task.chunk} {task.number} {os.getpid()}\n")
        if self.hold:
            self.hold = False
            print("holding", task.chunk, flush=True)
            sys.stdin.readline()
        while state["i"] < ITERATIONS:
            more = [number(int(point), str(task.stage), state["i"]) for point in task.points]
            state["sum"] = state["sum"] / 3 + torch.tensor(more, dtype=torch.float64)
            state["i"] += 1
            if self.talk:
                print(task.chunk, task.number, state["i"], flush=True)
            if task.due():
                task.save(state)
        return found(task, state["sum"].numpy())

    def _log(self, line: str) -> None:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(line)


def killed(task: Task) -> StageResult:
    """As :class:`Fake`, but ends with a ZeroDivisionError once stage 4 of chunk 1 has saved its third iteration."""

    def save(state: dict[str, Any]) -> None:
        type(task).save(task, state)
        if (task.chunk, task.number, state["i"]) == (1, 4, 3):
            raise ZeroDivisionError

    task.save = save
    return Fake()(task)


def found(task: Task, total: np.ndarray) -> StageResult:
    attack, eps = task.stage
    if task.stage == CLEAN:
        success = np.array([number(int(point), "clean") < 0.1 for point in task.points])
        return StageResult(
            Record.of(CLEAN, task.points, success=success, distance=np.where(success, 0, np.inf), margin=total)
        )
    point = np.repeat(task.points, TARGETS)
    target = np.tile(np.arange(1, TARGETS + 1), len(task.points))
    if attack == "fab-t":
        distance = np.array([4 * number(int(p), int(t), "fab") for p, t in zip(point, target, strict=True)])
        distance[distance > 2] = np.inf
    else:
        near = np.array([number(int(p), int(t), str(task.stage)) < 0.08 for p, t in zip(point, target, strict=True)])
        distance = np.where(near, eps * 0.9, np.inf)
    success = distance <= eps
    first = np.cumsum(success.reshape(-1, TARGETS), axis=1).reshape(-1)
    order = np.arange(len(point))[::-1]  # rows may come in any order
    record = Record.of(
        task.stage, point, target=target, success=success, distance=distance, finished=(first == 0) | success,
        margin=np.repeat(total, TARGETS), iteration=ITERATIONS, forwards=ITERATIONS,
    ).where(order)  # fmt: skip
    nearest = distance.reshape(-1, TARGETS).min(1)
    kept = np.isfinite(nearest)
    return StageResult(record, (task.points[kept], np.tile(nearest[kept, None], 4).astype(np.float32)))


def same(a: Record, b: Record) -> bool:
    return all(np.array_equal(a.columns[name], b.columns[name], equal_nan=name == "margin") for name in a.columns)


if __name__ == "__main__":
    folder, log, *words = sys.argv[1:]
    part = words.index("shard") if "shard" in words else None
    store = Store.open(folder, manifest())
    fake = Fake(Path(log), talk="hold" not in words, hold="hold" in words)
    shard = None if part is None else (int(words[part + 1]), int(words[part + 2]))
    whole = work(store, fake, shard=shard, save_seconds=0, poll=0.02)
    print("whole" if whole else "late", flush=True)
