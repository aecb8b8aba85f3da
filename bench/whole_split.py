"""A whole test split under AutoAttack: how long it takes, and how much memory beyond what the model needs anyway."""

import gc
from pathlib import Path
from typing import NamedTuple

import torch
from peers import Spent
from torch import Tensor, nn

from easybn import evaluate
from easybn.evaluation import Evaluation

BATCH = 256


class Needed(NamedTuple):
    """What an evaluation took.

    Args:
        found: its result.
        spent: time.
        memory: bytes at the peak, beyond what the process held after it had classified a batch; None where the
            kernel does not tell (other systems than Linux).
    """

    found: Evaluation
    spent: Spent
    memory: int | None


def needed(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float) -> Needed:
    """The standard AutoAttack on all of ``x`` at once, in this process's memory.

    The kernel's record of the process's largest resident size (VmHWM) is reset before and read after it. What the
    process held before (VmRSS: the interpreter, torch, the model, the images, and what one batch left) is subtracted.
    """
    with torch.no_grad():
        model(x[:BATCH])
    gc.collect()
    before = _reset()
    began = Spent.now()
    found = evaluate(model, x, y, norm=norm, eps=eps, attacks="standard", batch_size=BATCH, diagnosis=False)
    return Needed(found, Spent.since(began), None if before is None else _status("VmHWM") - before)


def _reset() -> int | None:
    """Forget the largest resident size; the present one in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
