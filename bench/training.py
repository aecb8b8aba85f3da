"""What a training step costs, as ratios of steps that alternate within one run.

    python bench/training.py steps [--model resnet18] [--batch 64] [--rounds 7]
    python bench/training.py rest [--model resnet_tiny]    all of a training but the network, and its share
    python bench/training.py start                         from the command to the first step

Compilation is in bench/compiled.py, memory in bench/step_memory.py, growth in bench/growth.py.

Every step includes zeroing the gradients and the optimiser's step. A round takes one step of each kind, in an order
that is turned by one from round to round; each ratio is formed within a round, and the median of the rounds is
printed with the range of their middle half.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from usual import by_torch, concatenated_step, sliced, split_by_timm, vanilla_step

from easybn import convert, recipes
from easybn.models import build
from easybn.train.fit import fit
from easybn.train.schedule import Training
from easybn.train.step import take_step

RATIOS = [  # what is divided by what, and the aim
    ("Vanilla", "usual vanilla", 0.9),
    ("EBN", "Vanilla", 2.5),
    ("AdvProp", "Vanilla", 2.5),
    ("EBN", "usual AdvProp", 0.74),
    ("AdvProp", "usual AdvProp", 0.74),
    ("AdvProp", "timm split", None),
    ("EBNShared", "Vanilla", 2.05),
    ("EBNShared", "usual AdvProp", 0.62),
]

Step = Callable[[], object]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def usual(name: str, batch: int) -> dict[str, Step]:
    """The baselines: (a) vanilla, (b) AdvProp by slices, (c) AdvProp by timm's split batch norm."""
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    found: dict[str, Step] = {}
    for label, change, step in (
        ("usual vanilla", nn.Identity(), vanilla_step),
        ("usual AdvProp", sliced, concatenated_step),
        ("timm split", split_by_timm, concatenated_step),
    ):
        model = change(by_torch(build(name))).train()
        optimizer = sgd(model)
        found[label] = lambda model=model, optimizer=optimizer, step=step: step(model, optimizer, x, y)
    return found


def ours(name: str, batch: int, kinds: tuple[str, ...]) -> dict[str, Step]:
    """Our steps as :func:`easybn.fit` takes them."""
    x = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    found: dict[str, Step] = {}
    for kind in kinds:
        recipe, model = getattr(recipes, kind)(), build(name)
        model = convert(model, recipe.branches) if len(recipe.branches) > 1 else model
        model = model.train().to(memory_format=torch.channels_last)
        optimizer = sgd(model)
        found[kind] = lambda m=model, o=optimizer, r=recipe: take_step(m, o, lambda: r(m, x, y))
    return found


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def timed(
    steps: dict[str, Step], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each kind of step, one a round."""
    names, found = list(steps), {name: [] for name in steps}
    for step in steps.values():  # memory and kernels of the first step are not what is asked
        step()
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            began = clock()
            steps[name]()
            found[name].append(clock() - began)
    return found


def ratio(above: list[float], below: list[float]) -> str:
    each = sorted(a / b for a, b in zip(above, below, strict=True))
    quarter = len(each) // 4
    return f"{statistics.median(each):.3f} ({each[quarter]:.3f} .. {each[-1 - quarter]:.3f})"


def steps(arguments: argparse.Namespace) -> None:
    kinds = ("Vanilla", "AdvProp", "EBN", "EBNShared")
    made = usual(arguments.model, arguments.batch) | ours(arguments.model, arguments.batch, kinds)
    seconds = timed(made, arguments.rounds, CLOCKS[arguments.clock])
    for name, each in seconds.items():
        print(f"{arguments.model}, batch {arguments.batch}, {name:14} {1000 * statistics.median(each):8.1f} ms a step")
    for above, below, aim in RATIOS:
        said = f"  (aim: at most {aim})" if aim else ""
        print(f"{above} / {below}: {ratio(seconds[above], seconds[below])}{said}", flush=True)


class Free(nn.Module):
    """A network that costs nothing: its logits are its ten parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), 10)


def rest(arguments: argparse.Namespace) -> None:
    """Images a second of a training whose network is free, on one thread, beside those of a real one."""
    torch.set_num_threads(1)
    x, y = torch.randint(0, 256, (12800, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (12800,))
    for augment in ("none", "crop_flip"):
        training = Training(epochs=1, batch_size=128, augment=augment)
        real = partial(fit, build(arguments.model), recipes.Vanilla(), (x[:2560], y[:2560]), training)
        free = partial(fit, Free(), recipes.Vanilla(), (x, y), training)
        seconds = timed({"real": real, "free": free}, 3)
        a, b = statistics.median(seconds["free"]) / len(x), statistics.median(seconds["real"]) / 2560
        print(
            f"augment {augment}, one thread: {1 / a:,.0f} images/s with a free network, {1 / b:,.0f} with "
            f"{arguments.model} (Vanilla): {100 * (1 - a / b):.1f}% of the time is the network's",
            flush=True,
        )


STOPS = """
import os
from easybn.recipes import EBN
class Stops(EBN):
    def __call__(self, model, x, y, ctx):
        if ctx.step:
            os._exit(0)
        yield from super().__call__(model, x, y, ctx)
"""


def start(arguments: argparse.Namespace) -> None:
    """A new process: `easybn train` with the defaults, by a recipe that ends it where the second step begins."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "stops.py").write_text(STOPS)
        command = [sys.executable, "-m", "easybn", "train", "--recipe", "./stops.py:Stops", "--out", "run"]
        took = []
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            took.append(time.perf_counter() - began)
            shutil.rmtree(Path(folder, "run"))
    print(f"first step after {statistics.median(took):.2f} s ({min(took):.2f} .. {max(took):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["steps", "rest", "start"])
    parser.add_argument("--model", default=None, help="resnet18; resnet_tiny for rest")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    clock = "of the steps; the processor's, on one thread, hardly depends on what else the machine does"
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help=clock)
    arguments = parser.parse_args()
    arguments.model = arguments.model or ("resnet18" if arguments.part == "steps" else "resnet_tiny")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.clock} clock")
    {"steps": steps, "rest": rest, "start": start}[arguments.part](arguments)


if __name__ == "__main__":
    main()
