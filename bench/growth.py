"""How the cost of training grows: images a second against batch size, width, image size, branches and attack steps.

    python bench/growth.py [--seconds 2] [--rows FILE.csv] [--plot FILE.svg]

Every point is the median of as many steps as fit into ``--seconds`` (three at least), taken between two measurements
of the machine's rate at multiplying matrices: what a step would take at that rate, without Winograd's algorithm, is
the line it is compared with.
``--plot`` needs matplotlib (``pip install --group bench``).
"""

import argparse
import copy
import csv
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from usual import by_torch

from easybn import PGD, Linf, convert, recipes
from easybn.models.resnet import BasicBlock, ResNet
from easybn.recipes import Recipe
from easybn.train.step import take_step

EVERY = (recipes.Vanilla(), recipes.EBN())


class Point(NamedTuple):
    """One thing varied from the middle: three stages of one block, 32-64-128 channels, 64 images of 32 pixels."""

    varied: str
    value: int
    recipe: Recipe
    batch: int = 64
    width: int = 32
    size: int = 32


def points() -> Iterator[Point]:
    for recipe in EVERY:
        yield from (Point("batch size", n, recipe, batch=n) for n in (4, 8, 16, 32, 64, 128, 256))
        yield from (Point("width", n, recipe, width=n) for n in (8, 16, 32, 64, 128))
        yield from (Point("image size", n, recipe, size=n) for n in (16, 24, 32, 48, 64))
    for branches, recipe in enumerate((recipes.Vanilla(), recipes.EBN(), recipes.AdvPropEBN()), 1):
        yield Point("branches", branches, recipe)
    for steps in (1, 2, 4, 8):
        yield Point("attack steps", steps, recipes.AdversarialTraining(PGD(Linf(8 / 255), steps=steps)))


def multiplication(n: int = 1024) -> float:
    """Floating-point operations a second in the product of two square matrices, the best of three."""
    a = torch.rand(n, n)
    best = min(_seconds(lambda: a @ a) for _ in range(3))
    return 2 * n**3 / best


def measured(point: Point, seconds: float) -> dict[str, Any]:
    model: torch.nn.Module = ResNet(BasicBlock, (1, 1, 1), (point.width, 2 * point.width, 4 * point.width))
    if len(point.recipe.branches) > 1:
        model = convert(model, point.recipe.branches)
    model = model.train().to(memory_format=torch.channels_last)
    counted = by_torch(copy.deepcopy(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.rand(point.batch, 3, point.size, point.size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (point.batch,))

    def step() -> None:
        take_step(model, optimizer, lambda: point.recipe(model, x, y))

    def two() -> None:
        for term in point.recipe(counted, x[:2], y[:2]):
            (term.weight * term.loss).backward()

    step()
    two()  # a first one looks for what can be folded
    counter = FlopCounterMode(display=False)
    with counter:
        two()
    rates, took = [multiplication()], []
    while len(took) < 3 or sum(took) < seconds:
        took.append(_seconds(step))
    rates.append(multiplication())
    each, rate = statistics.median(took), statistics.mean(rates)
    flops = counter.get_total_flops() * point.batch / 2
    return {
        "varied": point.varied,
        "value": point.value,
        "recipe": type(point.recipe).__name__,
        "images_per_second": round(point.batch / each, 1),
        "at_multiplication_rate": round(point.batch * rate / flops, 1),
        "share": round(flops / each / rate, 3),
        "gflop_per_image": round(flops / point.batch / 1e9, 4),
        "multiplication_gflops": round(rate / 1e9, 1),
    }


def _seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    kinds = list(dict.fromkeys(row["varied"] for row in rows))
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(3.1 * len(kinds), 3.2), layout="constrained")
    for panel, varied in zip(panels, kinds, strict=True):
        shown = [row for row in rows if row["varied"] == varied]
        several = varied in ("branches", "attack steps")
        for colour, name in zip(
            ("C0", "C1"), dict.fromkeys("" if several else r["recipe"] for r in shown), strict=False
        ):
            line = [row for row in shown if several or row["recipe"] == name]
            values = [row["value"] for row in line]
            panel.plot(values, [row["images_per_second"] for row in line], f"{colour}o-", label=name or "measured")
            limit = [row["at_multiplication_rate"] for row in line]
            panel.plot(values, limit, f"{colour}--", label=f"{name} at the rate of a product of matrices".strip())
        panel.set(xlabel=varied, ylabel="images a second" if panel is panels[0] else None, yscale="log")
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted({row["value"] for row in shown}), sorted({row["value"] for row in shown}))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=6)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rows", type=Path, help="write what was measured there")
    parser.add_argument("--plot", type=Path, help="draw it there")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = []
    for point in points():
        row = measured(point, arguments.seconds)
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if arguments.rows:
        with arguments.rows.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
