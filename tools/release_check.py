"""All that a release needs, in order, with the time of each step; stops at the first that fails.

    python tools/release_check.py [--only STEP ...] [--from STEP] [--list]

The environments that it makes are removed again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*words: str | Path, **environment: str) -> None:
    """A program in the repository's folder; CalledProcessError if it fails."""
    print("$", *(f"{name}='{value}'" for name, value in environment.items()), *words, flush=True)
    subprocess.run([*map(str, words)], cwd=ROOT, env={**os.environ, **environment}, check=True)


def clean() -> None:
    """Nothing is left to commit: the wheel is of what will be tagged."""
    left = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if left:
        raise SystemExit(f"commit first:\n{left}")


def numbers() -> None:
    """The version is the same everywhere, and CITATION.cff fits its schema."""
    run(sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/test_wheel.py")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        bin_ = Path(folder) / "bin"
        run(bin_ / "pip", "install", "--quiet", "cffconvert>=2")
        run(bin_ / "cffconvert", "--validate", "-i", ROOT / "CITATION.cff")


def wheel() -> None:
    """The wheel in fresh environments, with the newest and with the oldest versions, and the quick start from it."""
    run(sys.executable, "-m", "pytest", "-q", "-m", "slow", "tests/test_wheel.py", EASYBN_FRESH="newest oldest")


STEPS: dict[str, Callable[[], None]] = {
    "clean": clean,
    "numbers": numbers,
    "lint": lambda: run("make", "lint"),
    "types": lambda: run("make", "types"),
    "dist": lambda: run("make", "dist"),
    "wheel": wheel,
    "docs": lambda: run("make", "docs"),
    "ci": lambda: run(".ci/run", EASYBN_CI="both"),
    "portable": lambda: run("make", "test-portable"),
    "all": lambda: run("make", "test-all"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=STEPS, help="these steps alone")
    parser.add_argument("--from", dest="first", choices=STEPS, help="this step and those after it")
    parser.add_argument("--list", action="store_true", help="the steps in order; nothing runs")
    asked = parser.parse_args()
    names = [name for name in STEPS if not asked.only or name in asked.only]
    names = names[names.index(asked.first) :] if asked.first in names else names
    if asked.list:
        print(*names, sep="\n")
        return
    took = []
    for name in names:
        print(f"\n### {name}", flush=True)
        begin = time.monotonic()
        try:
            STEPS[name]()
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{name} failed (status {error.returncode}); go on with --from {name}") from error
        finally:
            took.append(f"{name:10} {(time.monotonic() - begin) / 60:6.1f} min")
            print(*took, sep="\n", flush=True)


if __name__ == "__main__":
    main()
