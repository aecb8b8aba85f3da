"""Runs one stage: unpacks what was prepared, keeps its time limit, prints its rows as a table last.

Only Python's own library is imported here: what a stage needs is in place when its process starts.
"""

import argparse
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu import packed
from gpu.rows import read_rows, table

ROOT = Path(__file__).resolve().parents[2]
PREPARED = ROOT / ".gpu"
"""What ``bench/gpu/prepare`` made: ``wheels/``, ``data/`` and ``commit``; unpacked: ``site/`` and ``unpacked/``."""
GRACE = 10.0
"""Seconds for the item under way when the time is out; then the stage's process is killed."""


@dataclass(frozen=True)
class Stage:
    """A module ``gpu.<name>`` with ``main(out: Path, seconds: float, small: bool, device: str) -> None``.

    ``main`` writes rows (:class:`gpu.rows.Rows`) as soon as each is measured and starts nothing new once
    ``seconds`` are over. ``small`` asks for the same code in seconds on a CPU.

    Args:
        seconds: time limit of the whole run, unpacking included.
        columns: of its rows, those that are printed.
        counted: (field, value) of rows that are not printed one by one.
    """

    seconds: float
    columns: tuple[str, ...]
    counted: tuple[str, str] | None = None


STAGES = {
    "smoke": Stage(120, ("test", "outcome", "seconds"), ("outcome", "passed")),
    "speed": Stage(120, ("item", "value", "unit")),
    "study": Stage(480, ("item", "value", "unit")),
}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/gpu/run", description="One stage of the measurements on a GPU.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder for the rows (default: $OUT)")
    parser.add_argument("--seconds", type=float, help="time limit of the whole run (default: the stage's own)")
    parser.add_argument("--small", action="store_true", help="the same code in small, for a CPU")
    parser.add_argument("--device", default="cuda", help="cuda (default) or cpu")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the stage's own process
    asked = parser.parse_args(argv)
    if asked.out is None:
        parser.error("--out DIR is needed where $OUT is not set")
    asked.seconds = STAGES[asked.stage].seconds if asked.seconds is None else asked.seconds
    return asked


def main(argv: list[str] | None = None) -> int:
    """Run the stage in a process of its own, which a hang or a crash cannot keep from being reported."""
    began = time.monotonic()
    asked = parse(argv)
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if asked.inside:
        for line in too_old():
            print(f"note: {line}", flush=True)
        importlib.import_module(f"gpu.{asked.stage}").main(out, asked.seconds, asked.small, asked.device)
        return 0
    environment = unpacked()
    left = asked.seconds - (time.monotonic() - began)
    command = [sys.executable, "-m", "gpu.harness", asked.stage, "--inside", "--out", str(out)]
    command += ["--seconds", f"{left:.3f}", "--device", asked.device, *(["--small"] if asked.small else [])]
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    try:
        code = process.wait(timeout=max(left, 0) + GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = 124
    finally:
        if process.poll() is None:
            process.kill()
    path = out / f"{asked.stage}.jsonl"
    print(short(read_rows(path), STAGES[asked.stage]))
    print(f"{asked.stage}: exit {code} after {time.monotonic() - began:.0f} s, rows in {path}", flush=True)
    return code


def short(rows: list[dict[str, Any]], stage: Stage) -> str:
    """The rows as a table, and how many there are that it leaves out."""
    if stage.counted is None:
        return table(rows, stage.columns)
    field, value = stage.counted
    shown = [row for row in rows if row.get(field) != value]
    return f"{table(shown, stage.columns)}\n{len(rows) - len(shown)} {value}" if shown else f"{len(rows)} {value}"


def unpacked() -> dict[str, str]:
    """The environment of a stage's process: sources, wheels that this Python lacks, data; unpacked once."""
    places = [ROOT / "src", ROOT / "bench"]
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    if wheels := sorted((PREPARED / "wheels").glob("*.whl")):
        places.append(installed(wheels, PREPARED / "site"))
    if (PREPARED / "data").exists():
        environment["EASYBN_DATA"] = str(packed.unpacked(PREPARED / "data", PREPARED / "unpacked"))
    path = [*map(str, places), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(path)}


def installed(wheels: list[Path], folder: Path) -> Path:
    """``folder`` with the packages of the wheels; a wheel is a zip of what is to be there."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part)
        part.rename(folder)
    return folder


def too_old() -> list[str]:
    """What pyproject.toml asks for and this Python does not have in that version, a line each."""
    found = []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for asked in project["dependencies"]:
        name, least = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)", asked).groups()
        try:
            here = version(name)
        except PackageNotFoundError:
            found.append(f"{name} is missing ({asked})")
            continue
        if [int(n) for n in re.findall(r"\d+", here)[:3]] < [int(n) for n in least.split(".")]:
            found.append(f"{name} {here} is older than tested ({asked})")
    return found


if __name__ == "__main__":
    sys.exit(main())
