"""How the runs went: training curves, what the diagnosis of their evaluations found, and how each was made."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...json_files import Row
from ...tables.aggregate import RecipeRuns, Setting
from ...tables.rows import RunRows
from ...tables.table import Cell, Table, TableRow
from ..charts import Chart, Point, Series, finite
from ..elements import BRANCH_DASHES, Block, Content, Figure, Material, section

# Training curves of every branch, one line per seed; the loss on a logarithmic axis, so that a collapse is seen.


@section(
    "training",
    "Training curves",
    order=40,
    lead="A line for each branch and seed: solid the main branch, which is deployed, dashed the auxiliary ones. An "
    "auxiliary loss that falls far below the main one means that its perturbed images have become too easy to teach "
    "anything.",
)
def training_curves(material: Material) -> Content:
    blocks = []
    for setting in material.settings:
        losses = _figures(setting, material, "train", "loss", log=True)
        accuracies = _figures(setting, material, "val", "accuracy", log=False)
        if losses:
            blocks.append(Block("figures", f"{setting.title}: training loss", figures=losses))
        if accuracies:
            blocks.append(Block("figures", f"{setting.title}: accuracy on held-out images", figures=accuracies))
    return Content(blocks, "" if blocks else "No run has a metrics.jsonl: easybn train writes it.")


def _figures(setting: Setting, material: Material, part: str, value: str, log: bool) -> list[Figure]:
    by_label = {recipe.label: _series(recipe, material, part, value) for recipe in setting.recipes}
    values = [point.y for series in by_label.values() for curve in series for point in finite(curve.points)]
    values = [each for each in values if each > 0 or not log]
    if not values:
        return []
    if log:
        ends = (min(values) * 0.8, max(values) * 1.25)
    else:
        ends = (max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.02))
    figures = []
    for label, series in by_label.items():
        if series:
            title, axis = f"{setting.title}: {label}, {part} {value}", value if log else f"{value}, %"
            chart = Chart(title, "epoch", axis, series, ends, percent=not log, log=log, room=44)
            figures.append(Figure(label, chart.svg()))
    return figures


def _series(recipe: RecipeRuns, material: Material, part: str, value: str) -> list[Series]:
    curves = []
    for i, run in enumerate(recipe.runs.values()):
        branches = list(dict.fromkeys(name for row in run.metrics for name in row.get(part, {})))
        for number, branch in enumerate(branches):
            points = _points(run.metrics, lambda row, b=branch: row.get(part, {}).get(b, {}).get(value))  # type: ignore[misc]
            if points:
                colour, dash = material.colours.css_class(recipe), BRANCH_DASHES[number % len(BRANCH_DASHES)]
                tag = branch if i == 0 else ""
                curves.append(Series(branch, points, colour, dash, thin=i > 0, tag=tag, marks=len(points) == 1))
    return curves


def _points(rows: Sequence[Row], value: Callable[[Row], float | None]) -> list[Point]:
    return [Point(float(row["epoch"]), float(y)) for row in rows if isinstance(y := value(row), int | float)]


# What the diagnosis found, and the notes of the evaluations: a row per check, then a row per finding.

SEVERITIES = ("warning", "note", "ok")


class Finding(NamedTuple):
    """A finding as the table shows it."""

    run: str
    severity: str
    check: str
    what: str
    then: str


@section("diagnosis", "Diagnosis", order=100)
def diagnosis(material: Material) -> Content:
    runs = material.rows.runs
    findings = sorted((each for run in runs for each in _findings(run)), key=lambda f: SEVERITIES.index(f.severity))
    blocks = []
    if findings:
        blocks.append(Block("table", table=_checks_table(findings)))
        if len({(each.severity, each.check) for each in findings}) < len(findings):
            table = _findings_table(findings)
            blocks.append(Block("table", table=table, folded=f"All {len(findings)} findings"))
    passed = Counter(str(each.get("name")) for run in runs for each in run.findings if each.get("severity") == "ok")
    if passed:
        counts = ", ".join(f"{name} ({count})" for name, count in passed.most_common())
        blocks.append(Block("text", caption=f"Checks that found nothing, with the number of evaluations: {counts}."))
    diagnosed = sum(bool(run.findings) for run in runs)
    missing = "" if diagnosed else "No diagnosis is kept: easybn evaluate RUNS, or a study, makes one."
    lead = f"What makes a figure misleading, looked for in {diagnosed} of {len(runs)} runs." if diagnosed else ""
    return Content(blocks, missing, lead)


def _findings(run: RunRows) -> list[Finding]:
    """The findings of a run, each once, however many of its evaluations report it."""
    findings = []
    for stored in run.findings:
        severity = str(stored.get("severity", "note"))
        if severity != "ok":
            what = ": ".join(str(stored[part]) for part in ("what", "how_much") if stored.get(part))
            then = ". ".join(str(stored[part]) for part in ("why", "remedy") if stored.get(part))
            findings.append(Finding(run.name, severity, str(stored.get("name", "")), what, then))
    notes = [note for row in run.scores for note in row.get("notes") or ()]
    findings += [Finding(run.name, "note", "evaluation", str(note), "") for note in notes]
    return list(dict.fromkeys(findings))


def _checks_table(findings: Sequence[Finding]) -> Table:
    """A row per check: in how many runs it found something, and what in the first."""
    rows = []
    for severity, check in dict.fromkeys((each.severity, each.check) for each in findings):
        same = [each for each in findings if (each.severity, each.check) == (severity, check)]
        first, runs = same[0], len({each.run for each in same})
        what = first.what if len(same) == 1 else f"{first.run}: {first.what}"
        where = Cell(first.run if runs == 1 else f"{runs} runs", runs)
        rows.append(TableRow(check, [Cell(severity), where, Cell(what), Cell(first.then)]))
    return Table("Checks", "check", ["kind", "in", "such as", "why and what to do"], rows, numeric=[False] * 4)


def _findings_table(findings: Sequence[Finding]) -> Table:
    rows = [
        TableRow(each.run, [Cell(each.severity), Cell(each.check), Cell(each.what), Cell(each.then)])
        for each in findings
    ]
    return Table("Findings", "Run", ["kind", "check", "what", "why and what to do"], rows, numeric=[False] * 4)


# How each run was made, and the command to make it again.


@section(
    "made",
    "How each run was made",
    order=110,
    lead="Commit, machine and minutes of each run; below, the command that was given and every field of its config.",
)
def how_made(material: Material) -> Content:
    runs = material.rows.runs
    if not runs:
        return Content(missing="No runs: easybn train makes one.")
    labels = {run.name: each.label for s in material.settings for each in s.recipes for run in each.runs.values()}
    rows = [TableRow(run.name, _made_cells(run, labels.get(run.name, run.method))) for run in runs]
    columns = ["recipe", "data", "network", "seed", "epochs", "minutes", "images/s", "commit", "torch", "machine"]
    numeric = [False, False, False, True, True, True, True, False, False, False]
    details = [
        {
            "name": run.name,
            "commands": [shlex.join(map(str, each["command"])) for each in run.sessions if each.get("command")],
            "config": json.dumps(run.experiment, indent=1),
        }
        for run in runs
    ]
    text = "Minutes are of training, on that machine with whatever else it did. A + after a commit: files were changed."
    table = Table("Runs", "Run", columns, rows, numeric=numeric)
    return Content([Block("table", caption=text, table=table), Block("runs", content={"runs": details})])


def _made_cells(run: RunRows, label: str) -> list[Cell]:
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
