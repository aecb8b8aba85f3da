"""Our AutoAttack against the reference's code (pyautoattack): the same points, the same model, one run.

    python bench/evaluation.py verdicts [--points 300] [--seeds 3]   per-point agreement, and robust accuracies
    python bench/evaluation.py time [--points 300]                   ratios of wall time, by how much survives
    python bench/evaluation.py pgd [--points 300]                    strong PGD against three literal library runs

The models are those of the package, and run folders given by ``--run``; the images are test images of the sample,
or of a run's own data set. Needs the development tools (``pip install --group dev``).
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from torch import Tensor, nn

from easybn import data, evaluate
from easybn.experiments.run import Run
from easybn.keyed_random import permutation
from easybn.models import load, trained

BALLS = {"linf": "Linf", "l2": "L2"}
SURVIVAL = [  # how much survives follows from model and eps: found by trying, printed with each ratio
    ("fashion-mnist-vanilla", "linf", 24 / 255, None),
    ("fashion-mnist-vanilla", "linf", 10 / 255, None),
    ("fashion-mnist-adversarial", "linf", 8 / 255, 40),
]


class Spent(NamedTuple):
    """Seconds on the clock, and of the processor: the second hardly depends on what else the machine does."""

    wall: float
    processor: float

    @classmethod
    def since(cls, began: "Spent") -> "Spent":
        return cls(*(now - then for now, then in zip(cls.now(), began, strict=True)))

    @classmethod
    def now(cls) -> "Spent":
        return cls(time.perf_counter(), time.process_time())


def reference(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, seed: int = 0) -> tuple[Tensor, Spent]:
    began = Spent.now()
    attack = AutoAttack(model, norm=BALLS[norm], eps=eps, seed=seed)
    adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=256)
    seconds = Spent.since(began)
    with torch.no_grad():
        return model(adversarial).argmax(1) == y, seconds


def ours(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> tuple[Tensor, Spent]:
    began = Spent.now()
    found = evaluate(model, x, y, norm=norm, eps=eps, attacks="standard")
    return found.robust, Spent.since(began)


def literal(model: nn.Module, x0: Tensor, y: Tensor, eps: float, steps: int = 100, batch: int = 256) -> Tensor:
    """The library ``robustness``: PGD in l2 as its text says, weight gradients included."""
    robust = []
    for centre, label in zip(x0.split(batch), y.split(batch), strict=True):
        x, best, best_loss = centre.clone(), centre.clone(), torch.full((len(label),), -math.inf)
        for step in range(steps + 1):
            x = x.detach().requires_grad_()
            losses = F.cross_entropy(model(x), label, reduction="none")
            better = losses.detach() > best_loss
            best[better], best_loss[better] = x.detach()[better], losses.detach()[better]
            if step == steps:
                break
            (g,) = torch.autograd.grad(losses.mean(), x)
            norm = g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            moved = x.detach() + 2.5 * eps / steps * g / (norm + 1e-10)
            x = (centre + (moved - centre).renorm(p=2, dim=0, maxnorm=eps)).clamp(0, 1)
        with torch.no_grad():
            robust.append(model(best).argmax(1) == label)
    return torch.cat(robust)


def problems(runs: list[Path], points: int) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    """Models with ``points`` test images of theirs."""
    for name in trained():
        yield name, load(name), *some(data.load("sample"), points)
    for folder in runs:
        config = Run(folder).config
        yield folder.name, load(folder), *some(data.load(config["data"], folder=config["data_folder"]), points)


def some(source: data.Source, points: int) -> tuple[Tensor, Tensor]:
    return source.test.batch(permutation(len(source.test), 0, "bench")[:points].sort().values)


def verdicts(arguments: argparse.Namespace) -> None:
    for name, model, x, y in problems(arguments.run, arguments.points):
        for norm, eps in (("linf", 8 / 255), ("l2", 0.5)):
            mine, _ = ours(model, x, y, norm, eps)
            theirs = torch.stack([reference(model, x, y, norm, eps, seed)[0] for seed in range(arguments.seeds)])
            accuracies = ", ".join(f"{100 * each:.2f}" for each in theirs.double().mean(1).tolist())
            agree = (theirs == mine).double().mean(1)
            print(
                f"{name} {norm} {eps:.4g}, {len(x)} points: robust ours {100 * mine.double().mean():.2f}%, reference "
                f"{accuracies}%; verdicts agree on {100 * agree.min():.2f} to {100 * agree.max():.2f}%",
                flush=True,
            )


def times(arguments: argparse.Namespace) -> None:
    for name, norm, eps, fewer in SURVIVAL:
        model, (x, y) = load(name), some(data.load("sample"), fewer or arguments.points)
        # who goes first alternates between the rounds
        a, b = [], []
        for k in range(arguments.rounds):
            for each in ("ours", "theirs") if k % 2 else ("theirs", "ours"):
                if each == "ours":
                    robust, seconds = ours(model, x, y, norm, eps)
                    a.append(seconds)
                else:
                    b.append(reference(model, x, y, norm, eps)[1])
        shown = [
            f"{ratio(a, b, kind):.1f} ({median(b, kind):.1f} s, {median(a, kind):.1f} s of {kind})"
            for kind in Spent._fields
        ]
        print(
            f"{name} {norm} {eps:.4g}, {len(x)} points, {100 * robust.double().mean():.1f}% survive: reference / ours "
            f"{', '.join(shown)}; medians of {arguments.rounds}",
            flush=True,
        )


def median(spent: list[Spent], kind: str) -> float:
    return statistics.median(getattr(each, kind) for each in spent)


def ratio(ours: list[Spent], theirs: list[Spent], kind: str) -> float:
    return median(theirs, kind) / median(ours, kind)


def pgd(arguments: argparse.Namespace) -> None:
    radii = (0.1, 0.5, 1.0)
    for name, model, x, y in problems(arguments.run, arguments.points):
        began = Spent.now()
        loose = [literal(model, x, y, eps) for eps in radii]
        library, began = Spent.since(began), Spent.now()
        found = evaluate(model, x, y, norm="l2", eps=radii)
        strong = Spent.since(began)
        pairs = [
            f"{eps}: {100 * found.robust_at[eps].double().mean():.1f} / {100 * each.double().mean():.1f}%"
            for eps, each in zip(radii, loose, strict=True)
        ]
        print(
            f"{name}, {len(x)} points, l2 {', '.join(pairs)} (strong / library): library / strong "
            + ", ".join(f"{ratio([strong], [library], kind):.1f} of {kind}" for kind in Spent._fields),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["verdicts", "time", "pgd"])
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of finished runs")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    {"verdicts": verdicts, "time": times, "pgd": pgd}[arguments.part](arguments)


if __name__ == "__main__":
    main()
