"""What the diagnosis found, and the notes of the evaluations."""

from collections import Counter

from ...over_seeds.layout import Cell, Line, Table
from ..page import Block, Material, Section

ORDER = ("warning", "note", "ok")


def section(material: Material) -> Section:
    lines, fine = [], Counter[str]()
    diagnosed = 0
    for run in material.rows.runs:
        diagnosed += bool(run.findings)
        for finding in sorted(run.findings, key=lambda each: ORDER.index(each.get("severity", "note"))):
            if finding.get("severity") == "ok":
                fine[str(finding.get("name"))] += 1
                continue
            what = ": ".join(str(finding[part]) for part in ("what", "how_much") if finding.get(part))
            then = ". ".join(str(finding[part]) for part in ("why", "remedy") if finding.get(part))
            cells = [Cell(str(finding.get(part, ""))) for part in ("severity", "name")]
            lines.append(Line(run.name, [*cells, Cell(what), Cell(then)]))
        for note in dict.fromkeys(note for row in run.scores for note in row.get("notes") or ()):
            lines.append(Line(run.name, [Cell("note"), Cell("evaluation"), Cell(str(note)), Cell()]))
    lines.sort(key=lambda line: ORDER.index(str(line.cells[0])) if str(line.cells[0]) in ORDER else 1)
    table = Table("Findings", "Run", ["kind", "check", "what", "why and what to do"], lines, numeric=[False] * 4)
    blocks = [Block("table", table=table)] if lines else []
    if fine:
        told = ", ".join(f"{name} ({count})" for name, count in fine.most_common())
        blocks.append(Block("text", caption=f"Checks that found nothing, with the number of runs: {told}."))
    missing = "" if diagnosed else "No diagnosis is kept: easybn summarise RUNS, or a study, writes what it finds."
    lead = f"What makes a figure misleading, looked for in {diagnosed} of {len(material.rows.runs)} runs."
    return Section("diagnosis", "Diagnosis", lead if diagnosed else "", blocks, missing)
