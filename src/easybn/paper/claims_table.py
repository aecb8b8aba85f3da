"""The claims as a table: one line a claim, and one line a comparison below."""

from collections import Counter
from collections.abc import Sequence

from ..tables.comparison import p_text, signed
from ..tables.table import Cell, Table, TableRow
from .claims import FAILS, HOLDS, NOT_MEASURED, RULES, UNDECIDED, Evidence, Judged


def claims_table(judged: Sequence[Judged]) -> Table:
    """Claim, where it is stated, what supports it here, the verdict and the interval that decides it."""
    columns = ["claim", "stated", "here", "look at first", "difference", "verdict"]
    lines = []
    for each in judged:
        first = each.decisive
        cells = [
            Cell(each.claim.says),
            Cell(each.claim.where),
            Cell(support(each)),
            Cell(first.what if first else ""),
            difference(first) if first else Cell(),
            Cell(each.verdict),
        ]
        lines.append(TableRow(each.claim.name, cells))
    return Table("The paper's claims", "", columns, lines, RULES, numeric=[False, False, False, False, True, False])


def evidence_table(judged: Sequence[Judged]) -> Table:
    """Every comparison of every claim."""
    columns = ["comparison", "seeds", "difference", "p (t)", "p (McNemar)", "verdict"]
    lines = [
        TableRow(each.claim.name, [Cell(one.what), *_tested(one), Cell(_spoken(one))], recipe=one.about)
        for each in judged
        for one in each.evidence
    ]
    caption = "Positive differences are on the claimed side; in points of a percent, those of C6 in relative distance."
    return Table("Every comparison", "", columns, lines, caption, numeric=[False, *[True] * 4, False])


def support(judged: Judged) -> str:
    """``holds in 1, does not hold in 8, undecided in 3 of 12 comparisons``; or what would measure it."""
    verdicts = Counter(each.verdict for each in judged.evidence if each.verdict is not None)
    n = sum(verdicts.values())
    if judged.verdict == NOT_MEASURED:
        return f"not measured: {judged.claim.command}"
    counts = {"holds": verdicts[HOLDS], "does not hold": verdicts[FAILS], "undecided": verdicts[UNDECIDED]}
    counts["not measured"] = verdicts[NOT_MEASURED]
    told = ", ".join(f"{word} in {count}" for word, count in counts.items() if count)
    one_seed = all(each.test is None or each.test.seeds == 1 for each in judged.evidence)
    return f"{told} of {n} comparison{'s' * (n != 1)}" + (" (one seed)" if one_seed else "")


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
    test = evidence.test
    if test is None:
        return Cell()
    scale, digits = (100, 2) if evidence.unit == "points" else (1, 3)
    half = "" if test.half_width is None else f" ±{scale * test.half_width:.{digits}f}"
    low, high = evidence.interval or (None, None)
    return Cell(f"{signed(scale * test.mean, digits)}{half}", scale * test.mean, low, high, test.seeds)


def _tested(evidence: Evidence) -> list[Cell]:
    test, points = evidence.test, evidence.points
    if test is None:
        return [Cell(), Cell(), Cell(), Cell()]
    over_points = Cell() if points is None else Cell(p_text(points.p), points.p)
    return [Cell(str(test.seeds), test.seeds), difference(evidence), Cell(p_text(test.p), test.p), over_points]


def _spoken(evidence: Evidence) -> str:
    if evidence.verdict is None:
        return evidence.why
    verdict = "undecided" if evidence.verdict == UNDECIDED else evidence.verdict
    return f"{verdict} ({evidence.why})" if evidence.why else verdict
