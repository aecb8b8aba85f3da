#!/usr/bin/env python3
"""The rows of a study's finished runs, without weights: python bench/keep.py RUNS results/NAME

Kept are the config, the environment, the metrics and, of the scores, those rows that the study asks for, with --also
those of other attacks too. Arguments of the commands that are absolute paths keep their last part only, so that nothing
of the machine's folders is published.
"""

import argparse
import fnmatch
import shutil
from pathlib import Path
from typing import Any

from easybn.json_files import Row, read_json, read_rows, write_json, write_rows
from easybn.runs.measured import is_row
from easybn.study.plan_file import StudyPlan, read_plan

AS_IT_IS = ("config.json", "metrics.jsonl")
IF_THERE = ("analysis.jsonl",)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/keep.py", description="Rows of a study's finished runs, to commit.")
    parser.add_argument("runs", type=Path, help="the study's folder")
    parser.add_argument("results", type=Path, help="where the rows go; what is there of a run is replaced")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="names of runs (default: all)")
    parser.add_argument("--also", nargs="+", default=[], metavar="ATTACK", help="attacks beyond the study's")
    asked = parser.parse_args(argv)
    plan = read_plan(asked.runs)
    if plan is None:
        parser.exit(1, f"bench/keep.py: {asked.runs} is no study's folder: it has no study.json\n")
    for name in keep(plan, asked.runs, asked.results, asked.only, asked.also):
        print(asked.results / name)
    return 0


def keep(plan: StudyPlan, runs: Path, results: Path, only: list[str], also: list[str]) -> list[str]:
    """Write the rows of those runs that have all that the study wants of them; returns their names."""
    kept = []
    for run in plan.runs:
        folder, target = runs / run.name, results / run.name
        if not any(fnmatch.fnmatch(run.name, glob) for glob in only) or not (folder / "scores.jsonl").exists():
            continue
        scores = read_rows(folder / "scores.jsonl")
        if not all(wanted.are_in(scores) for wanted in run.evaluations):
            continue
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in AS_IT_IS:
            shutil.copyfile(folder / name, target / name)
        for name in filter(lambda name: (folder / name).exists(), IF_THERE):
            shutil.copyfile(folder / name, target / name)
        wanted_rows = [row for wanted in run.evaluations for row in wanted.rows]
        digests = {wanted.digest for wanted in run.evaluations}
        attacks = {"clean", *also}
        write_rows(target / "scores.jsonl", [row for row in scores if _is_of(row, attacks, wanted_rows)])
        evaluated = read_json(folder / "evaluated.json", [])
        asked = [each for each in evaluated if each["digest"] in digests or _attacks(each) & set(also)]
        write_json(target / "evaluated.json", asked)
        sessions = read_json(folder / "environment.json", [])
        write_json(target / "environment.json", [_without_folders(session) for session in sessions])
        kept.append(run.name)
    return kept


def _is_of(row: Row, attacks: set[str], wanted: list[Row]) -> bool:
    return row["attack"] in attacks or any(is_row(row, each) for each in wanted)


def _attacks(evaluated: dict[str, Any]) -> set[str]:
    return set(evaluated["wanted"].get("attacks", ()))


def _without_folders(session: dict[str, Any]) -> dict[str, Any]:
    words = [Path(word).name if Path(word).is_absolute() else word for word in session["command"]]
    return {**session, "command": words}


if __name__ == "__main__":
    raise SystemExit(main())
