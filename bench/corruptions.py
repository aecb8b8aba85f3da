"""Images per second that ``easybn.data.corruptions`` makes, by kind, of two sizes; the best of three for each severity.

python bench/corruptions.py
"""

import time

import torch

from easybn.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt

IMAGES = 256
SHAPES = {"RGB, 32 x 32": (3, 32, 32), "grey, 28 x 28": (1, 28, 28)}


def seconds(x: torch.Tensor, kind: str, severity: int) -> float:
    """Processor time of one call."""
    began = time.process_time()
    corrupt(x, kind, severity)
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    totals = dict.fromkeys(SHAPES, 0.0)
    print(f"| kind | {' | '.join(SHAPES)} |", "| --- | ---: | ---: |", sep="\n")
    for kind in CORRUPTIONS:
        cells = []
        for name, shape in SHAPES.items():
            x = torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0))
            x = torch.nn.functional.avg_pool2d(x, 3, 1, 1)  # smooth, as pictures are, for JPEG
            best = [min(seconds(x, kind, severity) for _ in range(4)) for severity in SEVERITIES]
            totals[name] += sum(best)
            rates = [IMAGES / each for each in best]
            cells.append(f"{rates[2]:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
        print(f"| {kind} | {' | '.join(cells)} |")
    overall = [f"{IMAGES * len(CORRUPTIONS) * len(SEVERITIES) / total:,.0f}" for total in totals.values()]
    print(f"| all | {' | '.join(overall)} |")


if __name__ == "__main__":
    main()
