"""What a training step costs, as ratios of steps that alternate within one run.

    python bench/training.py steps [--model resnet18] [--batch 64] [--rounds 7]

Every step includes zeroing the gradients and the optimiser's step. A round takes one step of each kind, in an order
that is turned by one from round to round; each ratio is formed within a round, and the median of the rounds is
printed with the range of their middle half.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from usual import concatenated_step, sliced, split_by_timm, vanilla_step

from easybn import convert, recipes
from easybn.models import build
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
        model = change(build(name)).train()
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


def timed(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind of step, one a round."""
    names, found = list(steps), {name: [] for name in steps}
    for step in steps.values():  # memory and kernels of the first step are not what is asked
        step()
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            began = time.perf_counter()
            steps[name]()
            found[name].append(time.perf_counter() - began)
    return found


def ratio(above: list[float], below: list[float]) -> str:
    each = sorted(a / b for a, b in zip(above, below, strict=True))
    quarter = len(each) // 4
    return f"{statistics.median(each):.3f} ({each[quarter]:.3f} .. {each[-1 - quarter]:.3f})"


def steps(arguments: argparse.Namespace) -> None:
    kinds = ("Vanilla", "AdvProp", "EBN", "EBNShared")
    made = usual(arguments.model, arguments.batch) | ours(arguments.model, arguments.batch, kinds)
    seconds = timed(made, arguments.rounds)
    for name, each in seconds.items():
        print(f"{arguments.model}, batch {arguments.batch}, {name:14} {1000 * statistics.median(each):8.1f} ms a step")
    for above, below, aim in RATIOS:
        said = f"  (aim: at most {aim})" if aim else ""
        print(f"{above} / {below}: {ratio(seconds[above], seconds[below])}{said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["steps"])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    {"steps": steps}[arguments.part](arguments)


if __name__ == "__main__":
    main()
