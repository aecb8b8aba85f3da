"""From what a stage left in its folder to results/gpu: rows are added to those there, runs become folders."""

import argparse
import json
import re
import tarfile
from pathlib import Path

from gpu.study import KEPT, RESULTS

STAGES = ("smoke", "speed", "study")
_LARGEST = 2**24  # bytes of one file


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu/collect", description="Rows from a GPU to results/gpu.")
    parser.add_argument("out", type=Path, help="the folder that bench/gpu/run wrote to, as it came back")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where they go (default: results/gpu)")
    asked = parser.parse_args(argv)
    try:
        for line in collect(asked.out, asked.results):
            print(line)
    except (OSError, ValueError, tarfile.TarError) as error:
        parser.exit(1, f"bench/gpu/collect: {error}\n")
    return 0


def collect(out: Path, results: Path) -> list[str]:
    """Add the rows and runs in ``out`` to ``results``; what is there already stays as it is.

    Returns:
        What was added, a line each.

    Raises:
        ValueError: nothing to collect, a run that ``results`` has otherwise, an archive with anything but rows.
    """
    archives = sorted(out.glob("*.tar.gz"))
    files = {stage: out / f"{stage}.jsonl" for stage in STAGES if (out / f"{stage}.jsonl").exists()}
    if not archives and not files:
        raise ValueError(f"{out}: no rows of a stage, and no archive of runs")
    contents = {name: content for archive in archives for name, content in _read(archive).items()}
    for name, content in contents.items():
        if (results / name).exists() and (results / name).read_bytes() != content:
            raise ValueError(f"{results / name} is there already, and another one: remove its folder to replace it")
    results.mkdir(parents=True, exist_ok=True)
    added = []
    for stage, path in files.items():
        target = results / f"{stage}.jsonl"
        there = target.read_text().splitlines() if target.exists() else []
        new = [line for line in path.read_text().splitlines() if line not in set(there) and _whole(line)]
        if new:
            target.write_text("".join(f"{line}\n" for line in [*there, *new]))
        added.append(f"{target}: {len(new)} rows added")
    for name, content in contents.items():
        (results / name).parent.mkdir(exist_ok=True)
        (results / name).write_bytes(content)
    return added + [f"{results / run}" for run in sorted({name.partition("/")[0] for name in contents})]


def _read(archive: Path) -> dict[str, bytes]:
    """{RUN/FILE: content} of an archive, in which there is nothing else."""
    found = {}
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            run, _, name = member.name.partition("/")
            if not member.isfile() or name not in KEPT or not re.fullmatch(r"\w[\w-]*", run) or member.size > _LARGEST:
                raise ValueError(f"{archive}: {member.name!r} is none of a run's rows")
            content = opened.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found


def _whole(line: str) -> bool:
    """Whether a kill did not cut it off."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
