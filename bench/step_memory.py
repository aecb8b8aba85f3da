"""Peak memory of one training step of each recipe, as a ratio to vanilla's and to the usual AdvProp's, same batch.

    python bench/step_memory.py [--model resnet18] [--batch 64]

How it is measured: each recipe runs in a fresh process. Model, batch and optimiser state are made and one
step is taken; then the kernel's record of the process's largest resident size is reset
(/proc/self/clear_refs), two more steps are taken, and the record (VmHWM) is read. What the process held
before the steps (VmRSS) is subtracted: what is left is what a step needs beside weights and optimiser.
glibc's malloc is told to map every block above 64 KiB on its own, so that freed memory is given back and
the resident size is what is in use.
With a GPU, torch.cuda.max_memory_allocated is read in the same way. Linux only.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

USUAL = "usual AdvProp"  # both batches in one pass, see usual.py
STEPS = (USUAL, "Vanilla", "AdvProp", "EBN", "EBNShared", "AdvPropEBN", "FastAdvProp", "FastEBN")


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(name: str, model_name: str, batch: int) -> int:
    """Bytes that a step of the recipe needs at its peak, beyond what was there before it."""
    import gc

    import torch
    from usual import by_torch, concatenated_step, sliced

    from easybn import convert, recipes
    from easybn.models import build
    from easybn.train.step import take_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.contiguous_format if name == USUAL else torch.channels_last
    recipe = None if name == USUAL else getattr(recipes, name)()
    model = build(model_name)
    if recipe is None:
        model = sliced(by_torch(model))
    elif len(recipe.branches) > 1:
        model = convert(model, recipe.branches)
    model = model.to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.rand(batch, 3, 32, 32, device=device).contiguous(memory_format=layout)
    y = torch.randint(0, 10, (batch,), device=device)

    def step() -> None:
        if recipe is None:
            concatenated_step(model, optimizer, x, y)
        else:
            take_step(model, optimizer, lambda: recipe(model, x, y))

    step()
    optimizer.zero_grad()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
    for _ in range(2):
        step()
    return (torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--one", choices=STEPS, help="measure this recipe alone, in this process, in bytes")
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.one, arguments.model, arguments.batch))
        return
    used: dict[str, int] = {}
    for name in STEPS:
        command = [sys.executable, __file__, "--one", name, "--model", arguments.model, "--batch", str(arguments.batch)]
        # every larger block is mapped on its own and given back when freed, so that resident means in use
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        used[name] = int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
        shares = [f"x {used[name] / used[base]:.2f} of {base}" for base in (USUAL, "Vanilla") if base in used]
        size = f"{used[name] / 2**20:8.0f} MiB"
        print(f"{arguments.model}, batch {arguments.batch}, {name:14} {size}  {', '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
