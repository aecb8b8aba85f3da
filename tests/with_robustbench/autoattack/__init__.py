"""AutoAttack under the name and with the interface that RobustBench imports.

The registry has it as pyautoattack, whose attacks are the original files; its class lacks a log file, and returns the
images in a tuple.
"""

from pathlib import Path

import pyautoattack
from torch import Tensor


class AutoAttack(pyautoattack.AutoAttack):
    def __init__(self, model, log_path: Path | None = None, **options):
        super().__init__(model, **options)

    def run_standard_evaluation(self, x: Tensor, y: Tensor, bs: int = 250, state_path: Path | None = None) -> Tensor:
        return super().run_standard_evaluation(x, y, batch_size=bs, state_path=state_path)[0]
