"""What branches cost a forward pass in eval mode: a converted model against the plain one.

    python bench/branched_forward.py [--model resnet18] [--batch 16] [--rounds 15]

Plain and converted alternate within one run; the ratio is taken pair by pair and its median printed, since
the machine's speed drifts between pairs but hardly within one.
"""

import argparse
import statistics
import time

import torch

from easybn import convert
from easybn.models import build


def seconds(model: torch.nn.Module, x: torch.Tensor) -> float:
    began = time.perf_counter()
    model(x)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    plain = build(arguments.model).eval().to(memory_format=torch.channels_last)
    converted = convert(plain)
    x = torch.rand(arguments.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    ratios = []
    with torch.inference_mode():
        for k in range(arguments.rounds + 2):
            # who goes first alternates too
            first, second = (plain, converted) if k % 2 else (converted, plain)
            a, b = seconds(first, x), seconds(second, x)
            if k >= 2:  # two rounds to warm up
                ratios.append(b / a if k % 2 else a / b)
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"{arguments.model}, batch {arguments.batch}, {torch.get_num_threads()} threads: "
        f"converted / plain {middle:.3f} (median of {arguments.rounds}; {low:.3f} .. {high:.3f})"
    )


if __name__ == "__main__":
    main()
