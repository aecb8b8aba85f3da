"""How often the preset ``fast`` and AutoAttack's ``standard`` differ: the same test images, point by point.

    python bench/fast.py standard --runs FOLDER     verdicts of standard: hours; cells that have their row are left out
    python bench/fast.py again --runs FOLDER        the same with another seed: how far standard differs from itself
    python bench/fast.py fast --runs FOLDER         verdicts of fast by three seeds, without its audit
    python bench/fast.py table                      misses, gains and passes of every cell, from the rows

A cell is a model, a norm and a radius; its points are 300 test images of the data set that the model was trained on.
Two models are the package's; the others are run folders below FOLDER, which must have the names in ``RADII``. The rows
in ``--out`` keep the verdicts themselves, so that a later version of either preset can be held against them. The
sequence of ``fast`` was fixed on other models and other images.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from peers import Spent
from torch import Tensor, nn

from easybn import data, evaluate
from easybn.evaluation import Evaluation
from easybn.evaluation.verdicts import pack_bits, points_digest, unpack_bits
from easybn.keyed_random import permutation
from easybn.models import load, trained
from easybn.perturb.eps import format_eps
from easybn.runs.run import Run, environment
from easybn.stats import accuracy_interval

POINTS = 300
SEEDS = (0, 1, 2)
RADII: dict[str, dict[str, tuple[float, float]]] = {
    "fashion-mnist-vanilla": {"linf": (6 / 255, 3 / 255), "l2": (0.25, 0.15)},
    "fashion-mnist-adversarial": {"linf": (24 / 255, 16 / 255), "l2": (1.5, 0.75)},
    "fashion-vanilla": {"linf": (8 / 255, 4 / 255), "l2": (0.5, 0.25)},
    "fashion-adversarial": {"linf": (24 / 255, 16 / 255), "l2": (1.5, 0.75)},
    "fashion-advprop": {"linf": (12 / 255, 6 / 255), "l2": (0.75, 0.35)},
    "fashion-ebn": {"linf": (6 / 255, 3 / 255), "l2": (0.5, 0.2)},
    "cifar-adversarial": {"linf": (16 / 255, 8 / 255), "l2": (1.0, 0.5)},
    "cifar-vanilla": {"linf": (2 / 255, 0.5 / 255), "l2": (0.25, 0.1)},
    "cifar-advprop": {"linf": (3 / 255, 1 / 255), "l2": (0.4, 0.15)},
    "cifar-ebn": {"linf": (2 / 255, 0.5 / 255), "l2": (0.25, 0.1)},
}
"""Of each model: radii at which about a third and about three quarters of what it classifies rightly survives 20 steps
of PGD, chosen before either preset was run."""


class Cell(NamedTuple):
    """A model, a norm and a radius."""

    model: str
    norm: str
    eps: float

    def __str__(self) -> str:
        return f"{self.model} {self.norm} {format_eps(self.eps, self.norm)}"


CELLS = [Cell(model, norm, radii[i]) for i in range(2) for model, of in RADII.items() for norm, radii in of.items()]


class Rows:
    """The rows of one part, in a file that is appended to.

    Args:
        folder: of the file.
        part: "standard", "again" or "fast".
    """

    def __init__(self, folder: Path, part: str) -> None:
        self.path = folder / f"{part}.jsonl"
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]

    def of(self, cell: Cell) -> list[dict[str, Any]]:
        """Those of one cell."""
        return [row for row in self.rows if Cell(row["model"], row["norm"], row["eps"]) == cell]

    def append(self, cell: Cell, seed: int, found: Evaluation, ids: Tensor, spent: Spent) -> None:
        """The verdicts of an evaluation of one radius, what they took, and on what."""
        robust, record, around = found.robust_at[cell.eps], found.record, environment()
        standing = np.isin(record.point, found.points[robust].numpy())
        passes = {f: getattr(record, f)[standing].sum() / max(int(robust.sum()), 1) for f in ("forwards", "backwards")}
        row = {
            **cell._asdict(), "seed": seed, "n": len(ids), "points": points_digest(ids.tolist()),
            "clean": pack_bits(found.clean), "robust": pack_bits(robust), "broke": dict(found.scores[-1].broke),
            **{f"{name}_a_robust_point": round(float(value), 1) for name, value in passes.items()},
            "seconds": round(spent.wall, 1), "processor_seconds": round(spent.processor, 1),
            **{name: around[name] for name in ("time", "commit", "processor", "threads")},
            "torch": torch.__version__,
        }  # fmt: skip
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def problem(cell: Cell, runs: Path | None) -> tuple[nn.Module, Tensor, Tensor, Tensor] | None:
    """The model, its points and their ids; None if its run is not there."""
    if cell.model in trained():
        model, source = load(cell.model), data.load("fashion-mnist")
    elif runs is not None and (runs / cell.model / "model.safetensors").exists():
        config = Run(runs / cell.model).config
        model, source = load(runs / cell.model), data.load(config["data"], folder=config["data_folder"])
    else:
        return None
    ids = permutation(len(source.test), 0, "bench/fast")[:POINTS].sort().values
    return model, *source.test.batch(ids), ids


def measure(arguments: argparse.Namespace) -> None:
    """The missing rows of a part, cell by cell."""
    attacks = "fast" if arguments.part == "fast" else "standard"
    rows = Rows(arguments.out, arguments.part)
    for cell, seed in chosen(arguments):
        if any(row["seed"] == seed for row in rows.of(cell)):
            continue
        if (given := problem(cell, arguments.runs)) is None:
            print(f"{cell}: left out, there is no finished run {cell.model}", flush=True)
            continue
        model, x, y, ids = given
        more: dict[str, Any] = {"audit": 0} if attacks == "fast" else {}
        began = Spent.now()
        found = evaluate(
            model, x, y, norm=cell.norm, eps=cell.eps, attacks=attacks, seed=seed, ids=ids, diagnosis=False, **more
        )
        spent = Spent.since(began)
        rows.append(cell, seed, found, ids, spent)
        print(f"{cell}, seed {seed}: {int(found.robust.sum())} of {len(ids)} robust, {spent.wall:.0f} s", flush=True)


def chosen(arguments: argparse.Namespace) -> Iterator[tuple[Cell, int]]:
    """What a part measures: cells and seeds."""
    if arguments.part == "standard":
        yield from ((cell, 0) for cell in CELLS)
    elif arguments.part == "fast":
        yield from ((cell, seed) for seed in SEEDS for cell in CELLS)
    else:
        yield from ((cell, seed) for seed in SEEDS[1:] for cell in CELLS)


def table(arguments: argparse.Namespace) -> None:
    """One line a cell, and the sums, as Markdown."""
    standard, again, fast = (Rows(arguments.out, part) for part in ("standard", "again", "fast"))
    print("| model, norm, eps | robust: standard | fast | misses | gains | standard against itself | passes, fast |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    total = {"points": 0, "misses": 0, "gains": 0}
    for cell in CELLS:
        if not (reference := standard.of(cell)) or not (found := fast.of(cell)):
            continue
        true = robust(reference[0])
        mine = [robust(row) for row in found]
        misses, gains = [int((r & ~true).sum()) for r in mine], [int((true & ~r).sum()) for r in mine]
        itself = [int((robust(row) ^ true).sum()) for row in again.of(cell)]
        forwards, backwards = (
            sum(row[f"{name}_a_robust_point"] for row in found) / len(found) for name in ("forwards", "backwards")
        )
        for name, value in (("points", len(true) * len(mine)), ("misses", sum(misses)), ("gains", sum(gains))):
            total[name] += value
        print(
            f"| {cell} | {int(true.sum())} | {shown([int(r.sum()) for r in mine])} | {shown(misses)} | {shown(gains)} "
            f"| {shown(itself) or 'not measured'} | {forwards:.0f} F + {backwards:.0f} B |"
        )
    alike = total["points"] - total["misses"] - total["gains"]
    low, high = (100 * end for end in accuracy_interval(alike, total["points"]))
    print(
        f"\n{total['misses']} misses and {total['gains']} gains of {total['points']:,} verdicts: "
        f"{100 * alike / total['points']:.2f}% alike (95%: {low:.2f} to {high:.2f})"
    )


def robust(row: dict[str, Any]) -> NDArray[np.bool_]:
    return unpack_bits(row["robust"], row["n"])


def shown(counts: list[int]) -> str:
    """Of each seed, in order."""
    return " / ".join(map(str, counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("standard", "again", "fast", "table"))
    parser.add_argument("--runs", type=Path, default=None, help="a folder of run folders")
    parser.add_argument("--out", type=Path, default=Path("results/fast"))
    arguments = parser.parse_args()
    (table if arguments.part == "table" else measure)(arguments)


if __name__ == "__main__":
    main()
