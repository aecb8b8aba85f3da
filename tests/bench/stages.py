"""Runs a stage of bench/gpu in small, in a process of its own, as bench/gpu/run does on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(stage: str, out: Path) -> tuple[list[dict[str, Any]], str]:
    """Its rows, and what it prints."""
    command = [sys.executable, ROOT / "bench" / "gpu" / "run", stage, "--small", "--device", "cpu", "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (out / f"{stage}.jsonl").read_text().splitlines()], done.stdout
