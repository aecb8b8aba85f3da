"""Hours of training, killing, resuming and evaluating: results must be those of undisturbed runs, and nothing may grow.

    python bench/soak.py --minutes 120 --out FOLDER [--kinds KIND ...] [--kills 3] [--rounds N]
    python bench/soak.py --out FOLDER --minutes 0          the table of what is there

Each round takes the next recipe through the kinds of bench/soak_rounds.py: processes are killed with SIGKILL at moments
that depend on the number of the round alone, then run to their end and compared bit for bit with undisturbed ones.
After each round FOLDER/soak.jsonl gets a row: kills, mismatches, and what this process and the folders hold. All lies
below FOLDER, temporary files and caches too, so that they can be counted. Killed, or stopped, the same command goes on.
The exit status is 1 if anything differed; the folder of such a round is kept.
"""

import argparse
import ctypes
import gc
import math
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from soak_rounds import KINDS, Round, parts

import easybn
from easybn.json_files import read_rows, write_json, write_rows
from easybn.recipes import RECIPES
from easybn.runs.run import alone, environment
from easybn.stats import t_quantile

WARM_UP = len(RECIPES)  # rounds of a session that do not count for slopes: every recipe once
HELD = {  # what this process and the folders hold after a round, and how a table names it
    "rss_mib": "resident memory, MiB",
    "kept_mib": "the same, of what is in use, MiB",
    "objects": "Python objects",
    "descriptors": "open files",
    "threads": "threads",
    "children": "child processes",
    "temporary_files": "temporary files",
    "cache_files": "files in the cache",
    "parts": "half-written files",
    "folder_mib": "folder, MiB",
}


class Slope(NamedTuple):
    """Change a round, with its 95% interval, of ``rounds`` rounds after the warm-up."""

    slope: float
    half_width: float
    rounds: int


def settle_in(root: Path) -> None:
    """All of this process and its children lies below ``root`` and takes one thread."""
    for name in ("tmp", "cache", "undisturbed"):
        (root / name).mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "TMPDIR": str(root / "tmp"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(easybn.__file__).parents[1]),
        "COLUMNS": "200",
    }
    tempfile.tempdir = None
    torch.set_num_threads(1)


def resident() -> float:
    """This process's resident memory, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 2)


def held(root: Path) -> dict[str, float]:
    """See :data:`HELD`; of Linux's /proc and the GNU C library."""
    gc.collect()
    process, memory = Path("/proc/self"), resident()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later goes back to the system
    return {
        "rss_mib": memory,
        "kept_mib": resident(),
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir(process / "fd")) - 1,  # noqa: PTH208  (one of them is this listing's)
        "threads": len(list((process / "task").iterdir())),
        "children": sum(len(path.read_text().split()) for path in process.glob("task/*/children")),
        "temporary_files": sum(1 for _ in (root / "tmp").rglob("*")),
        "cache_files": sum(1 for _ in (root / "cache").rglob("*")),
        "parts": len(parts(root)),
        "folder_mib": round(sum(path.lstat().st_size for path in root.rglob("*") if path.is_file()) / 2**20, 2),
    }


def one_round(number: int, root: Path, kinds: list[str], kills: int) -> dict[str, Any]:
    """Do a round; its row."""
    round = Round(number, root, kills)
    began, seconds = time.perf_counter(), {}
    shutil.rmtree(round.folder, ignore_errors=True)
    round.folder.mkdir()
    for kind in kinds:
        start = time.perf_counter()
        try:
            KINDS[kind](round)
        except Exception as error:  # it is a finding, and the soak goes on
            round.mismatch(f"{kind}: {type(error).__name__}: {error}")
        seconds[kind] = float(f"{time.perf_counter() - start:.1f}")
    if left := parts(round.folder):
        round.mismatch(f"half-written files after the last start: {[path.name for path in left]}")
    if round.mismatches:
        for log in root.glob("*.log"):
            shutil.copy(log, round.folder)
        shutil.move(round.folder, root / f"mismatch-{number}")
    else:
        shutil.rmtree(round.folder)
    for log in root.glob("*.log"):
        log.unlink()
    return {
        "round": number,
        "recipe": round.recipe,
        "seconds": time.perf_counter() - began,
        "seconds_of": seconds,
        "counts": dict(round.counts),
        "mismatches": round.mismatches,
    }


def warm_up(session: list[dict[str, Any]]) -> int:
    """Rounds until a recipe comes again, of which there may have been fewer then."""
    recipes = [row.get("recipe") for row in session]
    return next((i for i, recipe in enumerate(recipes) if recipe and recipe in recipes[:i]), WARM_UP)


def slope(rows: list[dict[str, Any]], name: str) -> Slope | None:
    """Of the longest session; None where it is too short."""
    longest = Counter(row["session"] for row in rows).most_common(1)[0][0]
    of = [row for row in rows if row["session"] == longest]
    values = np.array([row[name] for row in of[warm_up(of) :]], float)
    if (n := len(values)) < 3:
        return None
    x = np.arange(n) - (n - 1) / 2
    slope = x @ values / (x @ x)
    rest = values - values.mean() - slope * x
    error = math.sqrt(rest @ rest / (n - 2) / (x @ x))
    return Slope(float(slope), t_quantile(n - 2, 0.95) * error, n)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the whole soak comes to."""
    counts: Counter[str] = Counter()
    for row in rows:
        for name, number in row["counts"].items():
            counts[name] = max(counts[name], number) if "at most" in name else counts[name] + number
    return {
        "rounds": len(rows),
        "sessions": len({row["session"] for row in rows}),
        "minutes": sum(row["seconds"] for row in rows) / 60,
        "kills": sum(number for name, number in counts.items() if name.startswith("kills")),
        "counts": dict(counts),
        "mismatches": [line for row in rows for line in row["mismatches"]],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what happened, what each round held where that changed, and what it held where it did not."""
    total = summary(rows)
    names = [name for name in HELD if all(name in row for row in rows)]  # earlier versions had fewer
    constant = [name for name in names if len({row[name] for row in rows}) == 1]
    slopes = {name: slope(rows, name) for name in names}
    rounds = next((fit.rounds for fit in slopes.values() if fit), 0)
    change = f"change a round, of the last {rounds} (95%)" if rounds else "change a round"
    lines = [
        f"{total['rounds']} rounds in {total['minutes']:.0f} minutes ({total['sessions']} sessions): "
        f"{total['kills']} kills, {len(total['mismatches'])} mismatches.",
        "",
        *(f"- {name}: {number}" for name, number in sorted(total["counts"].items())),
        f"- the same after every round: {', '.join(f'{HELD[name]} {rows[0][name]:g}' for name in constant)}",
        "",
        f"| after a round | first | last | least | most | {change} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        if name in constant:
            continue
        values, fit = [row[name] for row in rows], slopes[name]
        shown = "too few rounds" if fit is None else f"{fit.slope:+.3f} ± {fit.half_width:.3f}"
        numbers = f"{values[0]} | {values[-1]} | {min(values)} | {max(values)}"
        lines.append(f"| {HELD[name]} | {numbers} | {shown} |")
    return "\n".join([*lines, *(f"MISMATCH {line}" for line in total["mismatches"])])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="of all sessions together")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, default=3, help="of each piece of work, at most")
    parser.add_argument("--rounds", type=int, default=10**9, help="end after as many")
    arguments = parser.parse_args()
    root = arguments.out.absolute()
    settle_in(root)
    with alone(root / ".lock", "soak"):
        file = root / "soak.jsonl"
        rows = read_rows(file)
        session = 1 + max((row["session"] for row in rows), default=-1)
        while sum(row["seconds"] for row in rows) < 60 * arguments.minutes and len(rows) < arguments.rounds:
            if not rows or rows[-1]["session"] != session:
                write_json(root / f"environment-{session}.json", environment())
            row = one_round(len(rows), root, arguments.kinds, arguments.kills)
            rows.append({**row, "session": session, **held(root)})
            write_rows(file, rows)
            about = f"{row['recipe']}, {row['seconds']:.0f} s, {row['counts']}, {rows[-1]['rss_mib']} MiB"
            print(f"round {row['round']}: {about}", *row["mismatches"], sep="\n    ", flush=True)
        if not rows:
            return 0
        print(table(rows))
        write_json(root / "summary.json", {**summary(rows), "table": table(rows).splitlines()})
        return 1 if summary(rows)["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
