"""How each run was made, and the command to make it again."""

import json
import shlex

from ...tables.rows import RunRows
from ...tables.table import Cell, Table, TableRow
from ..page import Block, Material, Section


def section(material: Material) -> Section:
    labels = {run.name: each.label for s in material.settings for each in s.recipes for run in each.runs.values()}
    runs = material.rows.runs
    lines = [TableRow(run.name, _cells(run, labels.get(run.name, run.method))) for run in runs]
    columns = ["recipe", "data", "network", "seed", "epochs", "minutes", "images/s", "commit", "torch", "machine"]
    numeric = [False, False, False, True, True, True, True, False, False, False]
    table = Table("Runs", "Run", columns, lines, numeric=numeric)
    details = [
        {
            "name": run.name,
            "commands": [shlex.join(map(str, each["command"])) for each in run.sessions if each.get("command")],
            "config": json.dumps(run.experiment, indent=1),
        }
        for run in runs
    ]
    text = "Minutes are of training, on that machine with whatever else it did. A + after a commit: files were changed."
    blocks = [Block("table", caption=text, table=table), Block("runs", content={"runs": details})] if runs else []
    lead = "Commit, machine and minutes of each run; below, the command that was given and every field of its config."
    missing = "" if runs else "No runs: easybn train makes one."
    return Section("made", "How each run was made", lead if runs else "", blocks, missing)


def _cells(run: RunRows, label: str) -> list[Cell]:
    last = run.sessions[-1] if run.sessions else {}
    training = run.experiment.get("training", {})
    seconds = run.metrics[-1].get("seconds") if run.metrics else None
    speeds = [row["images_per_second"] for row in run.metrics if row.get("images_per_second")]
    speed = sorted(speeds)[len(speeds) // 2] if speeds else None
    commits = list(dict.fromkeys(_short(str(each.get("commit") or "")) for each in run.sessions))
    machine = [f"{last['cpus']} CPUs" if last.get("cpus") else "", str(last.get("cuda") or last.get("processor") or "")]
    return [
        Cell(label),
        Cell(run.data),
        Cell(str(run.experiment["model"])),
        Cell(str(run.seed), run.seed),
        Cell(str(training.get("epochs", "")), training.get("epochs")),
        Cell() if seconds is None else Cell(f"{seconds / 60:.1f}", seconds / 60),
        Cell() if speed is None else Cell(f"{speed:,.0f}", speed),
        Cell(", ".join(commits)),
        Cell(str(last.get("packages", {}).get("torch", ""))),
        Cell(", ".join(filter(None, machine))),
    ]


def _short(commit: str) -> str:
    return commit[:7] + "+" * commit.endswith("+")
