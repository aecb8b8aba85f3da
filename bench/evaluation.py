"""Our AutoAttack against the reference's code (pyautoattack): the same points, the same model, one run.

    python bench/evaluation.py verdicts [--points 300] [--seeds 3]   per-point agreement, and robust accuracies
    python bench/evaluation.py time [--points 300]                   ratios of time, by how much survives
    python bench/evaluation.py pgd [--points 300]                    strong PGD against three literal library runs
    python bench/evaluation.py resnet18 [--points 8]                 RN-18, all points robust, attacks shortened alike
    python bench/evaluation.py whole [--points 10000]                Fashion-MNIST's test split: minutes and memory
    python bench/evaluation.py fast [--points 1000]                  fast with its audit, against the reference

The models of the first three are those of the package, and run folders given by ``--run``; the images are test images
of the sample, or of a run's own data set. ``whole`` and ``fast`` need Fashion-MNIST itself (``easybn data``), all of
them the development tools (``pip install --group dev``). In ``fast`` the reference attacks a fifth of the points, which
takes minutes as it is, and its time is multiplied by five.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import torch
from peers import Spent, reference, robustness
from shortened import SHORT, ours_shortened, untrained
from torch import Tensor, nn
from whole_split import needed

from easybn import data, evaluate
from easybn.keyed_random import permutation
from easybn.models import load, trained
from easybn.runs.run import Run

SURVIVAL = [  # how much survives follows from model and eps: found by trying, printed with each ratio
    ("fashion-mnist-vanilla", "linf", 24 / 255, None),
    ("fashion-mnist-vanilla", "linf", 10 / 255, None),
    ("fashion-mnist-adversarial", "linf", 8 / 255, 40),
]
FAST = ("fashion-mnist-adversarial", "linf", 8 / 255)
REFERENCE_EVERY = 5  # of the points of ``fast``
Result = tuple[Tensor, Spent]


def ours(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> Result:
    began = Spent.now()
    found = evaluate(model, x, y, norm=norm, eps=eps, attacks="standard", diagnosis=False)
    return found.robust, Spent.since(began)


def problems(arguments: argparse.Namespace) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    """Models with test images of theirs."""
    points = arguments.points or 300
    for name in trained():
        yield name, load(name), *some(data.load("sample"), points)
    for folder in arguments.run:
        config = Run(folder).config
        yield folder.name, load(folder), *some(data.load(config["data"], folder=config["data_folder"]), points)


def some(source: data.Source, points: int) -> tuple[Tensor, Tensor]:
    return source.test.batch(permutation(len(source.test), 0, "bench")[:points].sort().values)


def verdicts(arguments: argparse.Namespace) -> None:
    for name, model, x, y in problems(arguments):
        for norm, eps in (("linf", 8 / 255), ("l2", 0.5)):
            mine, _ = ours(model, x, y, norm, eps)
            theirs = torch.stack([reference(model, x, y, norm, eps, seed)[0] for seed in range(arguments.seeds)])
            accuracies = ", ".join(f"{100 * each:.2f}" for each in theirs.double().mean(1).tolist())
            agree = 100 * (theirs == mine).double().mean(1)
            pairs = [100 * (a == b).double().mean() for a, b in combinations(theirs, 2)]
            itself = f" (of its own seeds on {min(pairs):.2f} to {max(pairs):.2f}%)" if pairs else ""
            print(
                f"{name} {norm} {eps:.4g}, {len(x)} points: robust ours {100 * mine.double().mean():.2f}%, reference "
                f"{accuracies}%; verdicts agree on {agree.min():.2f} to {agree.max():.2f}%{itself}; broken by us alone "
                f"{ids(theirs.all(0) & ~mine)}, by every seed of the reference alone {ids(mine & ~theirs.any(0))}",
                flush=True,
            )


def ids(rows: Tensor) -> list[int]:
    return [int(row) for row in rows.nonzero()[:, 0]]


def times(arguments: argparse.Namespace) -> None:
    for name, norm, eps, fewer in SURVIVAL:
        model, (x, y) = load(name), some(data.load("sample"), fewer or arguments.points or 300)
        compare(
            f"{name} {norm} {eps:.4g}",
            lambda m=model, x=x, y=y, n=norm, e=eps: ours(m, x, y, n, e),
            lambda m=model, x=x, y=y, n=norm, e=eps: reference(m, x, y, n, e),
            arguments.rounds,
        )


def resnet18(arguments: argparse.Namespace) -> None:
    source, norm, eps = data.load("sample"), "linf", 0.05 / 255
    x, _ = some(source, arguments.points or 8)
    model, y = untrained("resnet18", x, source)
    compare(
        f"resnet18 {norm} {eps:.4g}, all attacks shortened alike ({SHORT})",
        lambda: ours_shortened(model, x, y, norm, eps, SHORT),
        lambda: reference(model, x, y, norm, eps, short=SHORT),
        arguments.rounds,
    )


def compare(title: str, mine: Callable[[], Result], theirs: Callable[[], Result], rounds: int) -> None:
    a, b = [], []
    for k in range(rounds):
        # who goes first alternates between the rounds
        for side, run in ((a, mine), (b, theirs))[:: 1 if k % 2 else -1]:
            robust, spent = run()
            side.append(spent)
            survive = f"{100 * robust.double().mean():.1f}% of {len(robust)} points survive"
    shown = [
        f"{ratio(a, b, kind):.2f} ({median(b, kind):.1f} s, {median(a, kind):.1f} s of {kind})"
        for kind in Spent._fields
    ]
    print(f"{title}: {survive}: reference / ours {', '.join(shown)}; medians of {rounds}", flush=True)


def median(spent: list[Spent], kind: str) -> float:
    return statistics.median(getattr(each, kind) for each in spent)


def ratio(ours: list[Spent], theirs: list[Spent], kind: str) -> float:
    return median(theirs, kind) / median(ours, kind)


def pgd(arguments: argparse.Namespace) -> None:
    radii = (0.1, 0.5, 1.0)
    for name, model, x, y in problems(arguments):
        began = Spent.now()
        loose = [robustness(model, x, y, eps) for eps in radii]
        library, began = Spent.since(began), Spent.now()
        found = evaluate(model, x, y, norm="l2", eps=radii, diagnosis=False)
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


def whole(arguments: argparse.Namespace) -> None:
    name, norm, eps = "fashion-mnist-vanilla", "linf", 8 / 255
    x, y = some(data.load("fashion-mnist"), arguments.points or 10_000)
    found, spent, memory = needed(load(name), x, y, norm, eps)
    more = "not known on this system" if memory is None else f"{memory / 2**20:.0f} MiB"
    print(
        f"{name} {norm} {eps:.4g}, {len(x):,} points, standard: clean {100 * found.clean_accuracy:.2f}%, robust "
        f"{100 * found.robust_accuracy:.2f}% in {spent.wall / 60:.1f} minutes ({spent.processor / 60:.1f} of "
        f"processor); memory at the peak, beyond model and images: {more}",
        flush=True,
    )


def fast(arguments: argparse.Namespace) -> None:
    """At a radius that three quarters of the points survive: the audit is paid for once, the attacks point by point."""
    name, norm, eps = FAST
    model, (x, y) = load(name), some(data.load("fashion-mnist"), arguments.points or 1000)
    part = torch.arange(0, len(x), REFERENCE_EVERY)
    began = Spent.now()
    found = evaluate(model, x, y, norm=norm, eps=eps, attacks="fast", diagnosis=False)
    mine = Spent.since(began)
    print(found, flush=True)
    robust, theirs = reference(model, x[part], y[part], norm, eps)
    upper = found.robust[part]
    ratios = [
        f"{len(x) / len(part) * getattr(theirs, kind) / getattr(mine, kind):.1f} of {kind}" for kind in Spent._fields
    ]
    print(
        f"{name} {norm} {eps:.4g}: fast and its audit of {len(x):,} points {mine.wall / 60:.1f} minutes, the "
        f"reference's standard on {len(part):,} of them {theirs.wall / 60:.1f}. Of these survive it "
        f"{100 * robust.double().mean():.1f}%, fast and its audit {100 * upper.double().mean():.1f}%; broken by the "
        f"reference alone {int((upper & ~robust).sum())}, by fast or its audit alone {int((robust & ~upper).sum())}; "
        f"reference / ours {', '.join(ratios)}",
        flush=True,
    )


PARTS = {"fast": fast, "verdicts": verdicts, "time": times, "pgd": pgd, "resnet18": resnet18, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--points", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--run", type=Path, nargs="*", default=[], help="folders of finished runs")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    PARTS[arguments.part](arguments)


if __name__ == "__main__":
    main()
