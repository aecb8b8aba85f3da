"""What ``--compile`` brings: a compiled step of each recipe beside an uncompiled one, as ratios within one run.

    python bench/compiled.py [--model resnet18] [--batch 64] [--rounds 7] [--recipes EBN Vanilla]

The two steps of a recipe alternate as in bench/training.py. Compilation is timed apart, from an empty cache: it is the
first step's time less an ordinary step's, and from it follows after how many steps it has paid for itself.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch
from training import Step, ratio, sgd, timed

from easybn import convert, recipes
from easybn.models import build
from easybn.train.prepare import compile_model
from easybn.train.step import take_step

KINDS = (
    "Vanilla", "AdvProp", "EBN", "EBNShared", "AdvPropEBN", "FastAdvProp", "FastEBN", "AdversarialTraining",
)  # fmt: skip


def step(name: str, kind: str, batch: int, compiling: bool) -> Step:
    """A step as :func:`easybn.fit` takes it."""
    x = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,))
    recipe, plain = getattr(recipes, kind)(), build(name)
    model = convert(plain, recipe.branches) if len(recipe.branches) > 1 else plain
    model = model.train().to(memory_format=torch.channels_last)
    stepped = compile_model(model) if compiling else model
    optimizer = sgd(model)
    return lambda: take_step(stepped, optimizer, lambda: recipe(stepped, x, y))


def compare(name: str, kind: str, batch: int, rounds: int) -> None:
    steps = {"uncompiled": step(name, kind, batch, False), "compiled": step(name, kind, batch, True)}
    began = time.perf_counter()
    steps["compiled"]()
    first = time.perf_counter() - began
    seconds = timed(steps, rounds)
    before, after = (statistics.median(seconds[label]) for label in steps)
    said = f"compilation {first - after:.0f} s"
    if before > after:
        said += f", paid for after {(first - after) / (before - after):,.0f} steps"
    print(f"{name}, batch {batch}, {kind:20} uncompiled {1000 * before:.1f} ms, compiled {1000 * after:.1f} ms; {said}")
    print(f"compiled / uncompiled {kind}: {ratio(seconds['compiled'], seconds['uncompiled'])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--recipes", nargs="+", choices=KINDS, default=KINDS, metavar="RECIPE")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for kind in arguments.recipes:
        with tempfile.TemporaryDirectory() as empty:  # what an earlier run has compiled is no part of this one
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            compare(arguments.model, kind, arguments.batch, arguments.rounds)


if __name__ == "__main__":
    main()
