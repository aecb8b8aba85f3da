"""The claims as tables and as text: a row per claim, and a row per comparison."""

from collections import Counter
from collections.abc import Sequence

from ..tables.comparison import difference_cell, p_text, paired_t_cells
from ..tables.table import Cell, Table, TableRow
from .claims import FAILS, HOLDS, NOT_MEASURED, RULES, UNDECIDED, Evidence, Judged


def claims_table(judged: Sequence[Judged]) -> Table:
    """Claim, where it is stated, what supports it here, the verdict and the interval that decides it."""
    columns = ["claim", "stated", "here", "look at first", "difference", "verdict"]
    rows = []
    for each in judged:
        first = each.decisive
        cells = [Cell(each.claim.says), Cell(each.claim.where), Cell(support(each)), Cell(first.what if first else "")]
        rows.append(TableRow(each.claim.name, [*cells, difference(first) if first else Cell(), Cell(each.verdict)]))
    return Table("The paper's claims", "", columns, rows, RULES, numeric=[False, False, False, False, True, False])


def evidence_table(judged: Sequence[Judged]) -> Table:
    """Every comparison of every claim."""
    columns = ["comparison", "seeds", "difference", "p (t)", "p (McNemar)", "verdict"]
    rows = [
        TableRow(
            each.claim.name,
            [Cell(evidence.what), *_tests(evidence), Cell(_verdict_text(evidence))],
            recipe=evidence.about,
        )
        for each in judged
        for evidence in each.evidence
    ]
    caption = "Positive differences are on the claimed side; in points of a percent, those of C6 in relative distance."
    return Table("Every comparison", "", columns, rows, caption, numeric=[False, *[True] * 4, False])


def support(judged: Judged) -> str:
    """``holds in 1, does not hold in 8, undecided in 3 of 12 comparisons``; or what would measure it."""
    if judged.verdict == NOT_MEASURED:
        return f"not measured: {judged.claim.command}"
    verdicts = Counter(each.verdict for each in judged.evidence if each.verdict is not None)
    n = sum(verdicts.values())
    counts = {"holds": verdicts[HOLDS], "does not hold": verdicts[FAILS], "undecided": verdicts[UNDECIDED]}
    counts["not measured"] = verdicts[NOT_MEASURED]
    words = ", ".join(f"{word} in {count}" for word, count in counts.items() if count)
    one_seed = all(each.test is None or each.test.seeds == 1 for each in judged.evidence)
    return f"{words} of {n} comparison{'s' * (n != 1)}" + (" (one seed)" if one_seed else "")


def claims_text(judged: Sequence[Judged]) -> str:
    """The claims for a terminal of any width: a paragraph each."""
    lines = []
    for each in judged:
        lines.append(f"{each.claim.name}  {each.verdict.upper()}  {each.claim.says}")
        lines.append(f"    {each.claim.where}")
        lines.append(f"    here: {support(each)}")
        if first := each.decisive:
            unit = f" {first.unit}" if first.unit else ""
            lines.append(f"    look first at {first.what}: {difference(first)}{unit}")
        lines.append("")
    return "\n".join([*lines, RULES, ""])


def difference(evidence: Evidence) -> Cell:
    """``-0.93 ±0.40``, and as numbers."""
    return Cell() if evidence.test is None else difference_cell(evidence.test, evidence.scale, evidence.digits)


def _tests(evidence: Evidence) -> list[Cell]:
    if evidence.test is None:
        return [Cell(), Cell(), Cell(), Cell()]
    points = Cell() if evidence.points is None else Cell(p_text(evidence.points.p), evidence.points.p)
    return [*paired_t_cells(evidence.test, evidence.scale, evidence.digits), points]


def _verdict_text(evidence: Evidence) -> str:
    if evidence.verdict is None:
        return evidence.why
    verdict = "undecided" if evidence.verdict == UNDECIDED else evidence.verdict
    return f"{verdict} ({evidence.why})" if evidence.why else verdict
