"""Rows that stay: each a line of JSON in its file as soon as it was measured; and the clock that stages watch."""

import json
import subprocess
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """What is left of a stage's time."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, negative when they are over."""
        return self._end - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Whether an item that takes about so long should still be started."""
        return self.left() >= seconds


class Rows:
    """Appends to ``out/STAGE.jsonl``; every row says on what, with what, when and at which commit it was measured."""

    def __init__(self, out: Path, stage: str, device: str):
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / f"{stage}.jsonl"
        self._known = {"stage": stage, **machine(device), "commit": commit()}

    def write(self, **measured: Any) -> dict[str, Any]:
        """Write the row with these fields, and return it."""
        row = {**self._known, "date": datetime.now(UTC).isoformat(timespec="seconds"), **measured}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


@cache
def machine(device: str) -> dict[str, Any]:
    """card, driver, torch, CUDA; of a CPU the card is "cpu"."""
    import torch

    if not device.startswith("cuda"):
        return {"card": "cpu", "driver": None, "torch": torch.__version__, "cuda": None}
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device on this machine: --device cpu --small runs the same code in small")
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "card": torch.cuda.get_device_name(device),
        "driver": _first_line(query),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


@cache
def commit() -> str | None:
    """The commit of this tree: git's, or the one that ``prepare`` noted where only the files were copied."""
    noted = ROOT / ".gpu" / "commit"
    return _first_line(["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]) or (
        noted.read_text().strip() if noted.exists() else None
    )


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a file; none if there is none. A line that a kill cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """The rows as text, one line each, cells aligned to the left."""
    cells = [columns, *(tuple(_cell(row.get(name)) for name in columns) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
