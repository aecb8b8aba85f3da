"""Everything that the package writes, in turn; as a script, in processes that kill themselves in the middle of it.

    python tests/writers.py FOLDER CYCLES [LINE ...]

For each LINE a forked process writes CYCLES versions of every file into FOLDER/LINE and ends itself by SIGKILL before
the LINE-th line that it executes of the package's code that writes. For 0 it ends well, and prints as JSON which lines
those were: for each line of the code a list of when it was executed.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from easybn import files, json_files
from easybn.evaluation.store import Store, stage_file, store, work
from easybn.files import new_folder, replacing, write_text
from easybn.json_files import write_json, write_rows
from easybn.models import build, weights
from easybn.runs.run import Run
from easybn.train import checkpoint
from easybn.train.checkpoint import Checkpoint

from .evaluation.store.fake_job import Fake, manifest

TRACED = {module.__file__ for module in (files, json_files, checkpoint, stage_file, store, weights)}
CHUNKS = manifest().chunks


def state(version: int) -> Checkpoint:
    model = {"w": torch.full((8,), float(version))}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(8)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return Checkpoint(version, model, optimizer, tally={}, seconds=float(version), settings={})


def cycle(folder: Path, version: int) -> None:
    """Version ``version`` of everything, and one more chunk of an evaluation."""
    write_text(folder / "text.txt", str(version))
    write_rows(folder / "metrics.jsonl", [{"version": n} for n in range(version + 1)])
    write_json(folder / "config.json", {"version": version})
    with new_folder(folder / "verdicts" / f"folder-{version}") as part, replacing(part / "x") as file:
        file.write(bytes([version]))
    checkpoint.save(state(version), folder / "checkpoint.pt")
    net = build("resnet_tiny", 10, 1)
    torch.nn.init.constant_(net.get_parameter("network.linear.weight"), float(version))
    weights.save(net, folder / "model.safetensors", {"name": "resnet_tiny", "num_classes": 10, "in_channels": 1})
    work(Store.open(folder / "store", manifest()), Fake(), most=1, save_seconds=0)


def write(folder: Path, cycles: int) -> None:
    """As the next start of a process does: what kills have left is removed, then everything is written."""
    with Run(folder).locked():
        for version in range(cycles):
            cycle(folder, version)


class Tracer:
    """Counts executed lines of the modules that write; kills the process before a given one."""

    def __init__(self, last: int) -> None:
        self.lines, self.last = 0, last
        self.executed: dict[tuple[str, int], list[int]] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> "Callable | None":
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            self.lines += 1
            self.executed.setdefault((frame.f_code.co_filename, frame.f_lineno), []).append(self.lines)
            if self.lines == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def main(root: Path, cycles: int, lines: list[int]) -> None:
    for line in lines:
        child = os.fork()
        if child == 0:
            tracer = Tracer(line)
            sys.settrace(tracer)
            write(root / str(line), cycles)
            sys.settrace(None)
            print(json.dumps(list(tracer.executed.values())), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        expected = signal.SIGKILL if line else 0
        assert os.waitstatus_to_exitcode(status) == -expected, (line, status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), [int(word) for word in sys.argv[3:]])
