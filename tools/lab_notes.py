"""Pages of the site that are made from the rows in results/: every table and paired test of a study, and the claims.

They are what ``easybn report results/STUDY --tables markdown`` and ``easybn claims results --all --format markdown``
print, and which runs they are of.
"""

import re
from dataclasses import replace
from pathlib import Path

from easybn.cli.report import paper_tables
from easybn.paper.claims import judge
from easybn.paper.tables import claims_table, evidence_table
from easybn.runs.run import Run
from easybn.tables.formats import markdown
from easybn.tables.rows import read
from easybn.tables.table import Cell, Table, TableRow


def pages(results: Path, notes: str) -> dict[Path, str]:
    """Markdown by the folder whose rows it shows: each study in ``results``, and ``results`` itself for the claims.

    ``notes`` is the document that names the command of each study, with the options that it is compared by.
    """
    studies = dict.fromkeys(path.parent.parent for path in sorted(results.rglob("scores.jsonl")))
    return {results: claims(results)} | {study: tables_of(study, results, notes) for study in studies}


def claims(results: Path) -> str:
    """Each claim with every comparison that it is judged by."""
    judged = judge(read(results, ()))
    parts = ["# The paper's claims: every comparison", "`easybn claims results --all --format markdown` prints this."]
    return "\n\n".join([*parts, *map(section, (claims_table(judged), evidence_table(judged)))])


def tables_of(study: Path, results: Path, notes: str) -> str:
    """The tables over seeds, the paired tests, and the runs."""
    name = study.relative_to(results).as_posix()
    command = f"report results/{name} --tables markdown"
    options = re.search(rf"^easybn {command}(.*)$", notes, re.M)
    across = options[1].split()[1:] if options else []
    made = f"`easybn {command}{options[1] if options else ''}` prints these tables from the rows in `results/{name}`."
    page = (
        "[Do easy examples help?](../easy.md)" if study.parent.name == "easy" else "[Every study](../notes/results.md)"
    )
    tables = [*paper_tables(study, across), runs_of(study)]
    return "\n\n".join(
        [f"# {name}: every table and paired test", f"{made} What the study is and says: {page}.", *map(section, tables)]
    )


def section(table: Table) -> str:
    """A table under a heading, so that the page has a list of contents."""
    return f"## {table.title}\n\n{markdown(replace(table, title=''))}"


def runs_of(study: Path) -> Table:
    """How each run was made: of its last session."""
    rows = []
    for config in sorted(study.glob("*/config.json")):
        last = Run(config.parent).sessions[-1]
        texts = (last["commit"], last["processor"], str(last["threads"]), last["packages"]["torch"])
        rows.append(TableRow(config.parent.name, [Cell(text) for text in texts]))
    return Table("The runs", "run", ["commit", "processor", "threads", "torch"], rows)
