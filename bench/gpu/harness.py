"""Runs one stage: unpacks what was prepared, keeps its time limit, prints its rows as a table last.

Only Python's own library is imported here: what a stage needs is in place when its process starts.
"""

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gpu import packed
from gpu.rows import read_rows, table

ROOT = Path(__file__).resolve().parents[2]
PREPARED = ROOT / ".gpu"
"""What ``bench/gpu/prepare`` made: ``wheels/``, ``data/`` and ``commit``."""
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
    """

    seconds: float
    columns: tuple[str, ...]


STAGES = {
    "smoke": Stage(120, ("test", "outcome", "seconds")),
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
    print(table(read_rows(path), STAGES[asked.stage].columns))
    print(f"{asked.stage}: exit {code} after {time.monotonic() - began:.0f} s, rows in {path}", flush=True)
    return code


def unpacked() -> dict[str, str]:
    """The environment of a stage's process: sources, wheels that this Python lacks, data; unpacked once."""
    places = [ROOT / "src", ROOT / "bench"]
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    wheels = sorted((PREPARED / "wheels").glob("*.whl"))
    site = PREPARED / "site"
    if wheels:
        if not site.exists():
            part = PREPARED / f"site.{os.getpid()}"
            install = ["install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
            subprocess.run([sys.executable, "-m", "pip", *install, "--target", part, *wheels], check=True)
            part.rename(site)
        places.append(site)
    if (PREPARED / "data").exists():
        environment["EASYBN_DATA"] = str(packed.unpacked(PREPARED / "data", PREPARED / "unpacked"))
    path = [*map(str, places), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(path)}


if __name__ == "__main__":
    sys.exit(main())
