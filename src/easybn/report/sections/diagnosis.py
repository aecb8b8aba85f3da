"""What the diagnosis found, and the notes of the evaluations: a line a check, then a line a finding."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ...tables.rows import RunRows
from ...tables.table import Cell, Table, TableRow
from ..page import Block, Material, Section

ORDER = ("warning", "note", "ok")


class Found(NamedTuple):
    """A finding as the table shows it."""

    run: str
    severity: str
    check: str
    what: str
    then: str


def section(material: Material) -> Section:
    runs = material.rows.runs
    found = sorted((each for run in runs for each in _of_run(run)), key=lambda each: ORDER.index(each.severity))
    blocks = []
    if found:
        blocks.append(Block("table", table=_checks(found)))
        if len({(each.severity, each.check) for each in found}) < len(found):
            blocks.append(Block("table", table=_findings(found), folded=f"All {len(found)} findings"))
    fine = Counter(str(each.get("name")) for run in runs for each in run.findings if each.get("severity") == "ok")
    if fine:
        told = ", ".join(f"{name} ({count})" for name, count in fine.most_common())
        blocks.append(Block("text", caption=f"Checks that found nothing, with the number of evaluations: {told}."))
    diagnosed = sum(bool(run.findings) for run in runs)
    missing = "" if diagnosed else "No diagnosis is kept: easybn evaluate RUNS, or a study, makes one."
    lead = f"What makes a figure misleading, looked for in {diagnosed} of {len(runs)} runs."
    return Section("diagnosis", "Diagnosis", lead if diagnosed else "", blocks, missing)


def _of_run(run: RunRows) -> list[Found]:
    """Each once, however many of the run's evaluations say it."""
    found = []
    for finding in run.findings:
        severity = str(finding.get("severity", "note"))
        if severity != "ok":
            what = ": ".join(str(finding[part]) for part in ("what", "how_much") if finding.get(part))
            then = ". ".join(str(finding[part]) for part in ("why", "remedy") if finding.get(part))
            found.append(Found(run.name, severity, str(finding.get("name", "")), what, then))
    found += [
        Found(run.name, "note", "evaluation", str(note), "") for row in run.scores for note in row.get("notes") or ()
    ]
    return list(dict.fromkeys(found))


def _checks(found: Sequence[Found]) -> Table:
    """A line a check: in how many runs, and what it says of the first."""
    lines = []
    for severity, check in dict.fromkeys((each.severity, each.check) for each in found):
        of = [each for each in found if (each.severity, each.check) == (severity, check)]
        runs = len({each.run for each in of})
        what = of[0].what if len(of) == 1 else f"{of[0].run}: {of[0].what}"
        counted = [Cell(severity), Cell(of[0].run if runs == 1 else f"{runs} runs", runs)]
        lines.append(TableRow(check, [*counted, Cell(what), Cell(of[0].then)]))
    return Table("Checks", "check", ["kind", "in", "such as", "why and what to do"], lines, numeric=[False] * 4)


def _findings(found: Sequence[Found]) -> Table:
    lines = [
        TableRow(each.run, [Cell(each.severity), Cell(each.check), Cell(each.what), Cell(each.then)]) for each in found
    ]
    return Table("Findings", "Run", ["kind", "check", "what", "why and what to do"], lines, numeric=[False] * 4)
