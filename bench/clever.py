"""CLEVER here and in adversarial-robustness-toolbox: the same number of points, all targets, one run, alternating.

    python bench/clever.py [--model fashion-mnist-vanilla] [--samples 64] [--rounds 3]

Its score of an image and a target takes a pool of 10 x ``samples`` points and two gradients of each, those of the two
logits, ten points at a time; maxima are then drawn from the pool with replacement. Here 10 maxima of ``samples`` fresh
points each serve all targets, with intervals by resampling. Both are timed whole, without FAB, for one image and all
nine other classes. The toolbox is no dependency, not of development either: ``pip install
adversarial-robustness-toolbox``.
"""

import argparse
import copy
import statistics
from collections.abc import Iterator

import numpy as np
import torch
from peers import Spent
from torch import Tensor, nn
from usual import by_torch

from easybn import data
from easybn.metrics.clever import RADII, clever
from easybn.models import load

POOL = 10  # of the toolbox, its default: the pool has so many times the points of a maximum


def images(model: nn.Module, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first ``n`` test images of the sample that the model gets right, one by one."""
    split = data.load("sample").test
    x, y = split.batch(torch.arange(min(len(split), 2 * n + 10)))
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:n, 0]
    yield from ((x[i : i + 1], y[i : i + 1]) for i in right.tolist())


def theirs(model: nn.Module, x: Tensor, norm: str, samples: int, seed: int) -> tuple[float, Spent]:
    """The untargeted score by the toolbox, and what it took."""
    from art.estimators.classification import PyTorchClassifier
    from art.metrics import clever_u

    shape = tuple(x.shape[1:])
    classifier = PyTorchClassifier(
        by_torch(copy.deepcopy(model)), nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    np.random.seed(seed)  # noqa: NPY002 (what it draws from)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    began = Spent.now()
    score = clever_u(classifier, x[0].numpy(), 500, samples, RADII[norm], order, pool_factor=POOL, verbose=False)
    return float(score), Spent.since(began)


def ours(model: nn.Module, x: Tensor, y: Tensor, norm: str, samples: int, seed: int) -> tuple[float, Spent]:
    """The untargeted score of as many points, and what it took."""
    began = Spent.now()
    scores = clever(model, x, y, norm=norm, maxima=POOL, samples=samples, search=0, seed=seed)
    return scores.points[0].score, Spent.since(began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="fashion-mnist-vanilla")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        import art  # noqa: F401
    except ImportError as error:
        parser.exit(1, f"there is nothing to compare with ({error}): pip install adversarial-robustness-toolbox\n")
    model = load(arguments.model)
    ours(model, *next(images(model, 1)), "l2", 1, 0)  # imports
    ratios: dict[str, list[float]] = {norm: [] for norm in RADII}
    for seed, (x, y) in enumerate(images(model, arguments.rounds)):
        for norm, of_norm in ratios.items():
            their_score, their_time = theirs(model, x, norm, arguments.samples, seed)
            our_score, our_time = ours(model, x, y, norm, arguments.samples, seed)
            of_norm.append(their_time.processor / our_time.processor)
            print(
                f"{norm}, image {seed}, {POOL * arguments.samples:,} points, 9 targets: toolbox {their_score:.4g} in "
                f"{their_time.processor:.2f} s, here {our_score:.4g} in {our_time.processor:.2f} s of processor time",
                flush=True,
            )
    for norm, of_norm in ratios.items():
        print(f"{norm}: {statistics.median(of_norm):.1f} times as fast ({min(of_norm):.1f} to {max(of_norm):.1f})")


if __name__ == "__main__":
    main()
