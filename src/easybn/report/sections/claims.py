"""The paper's claims, each with its verdict and the comparisons behind it."""

from markupsafe import Markup

from ...paper.claims import RULES, Evidence
from ...paper.claims_table import difference, evidence_table, support
from ..charts import interval_mark
from ..page import Block, Material, Section

SIGNS = {"holds": "✓", "does not hold": "✕", "undecided at this scale": "○", "not measured": "∅"}


def section(material: Material) -> Section:
    cards = []
    for each in material.judged:
        first = each.decisive
        cards.append(
            {
                "name": each.claim.name,
                "says": each.claim.says,
                "where": each.claim.where,
                "here": _capital(support(each)),
                "sign": SIGNS[each.verdict],
                "verdict": each.verdict,
                "kind": each.verdict.split()[0],
                "first": first.what if first else "",
                "difference": difference(first).text if first else "",
                "unit": "points" if first and first.unit == "points" else "",
            }
        )
    table = evidence_table(material.judged)
    every = [one for each in material.judged for one in each.evidence]
    blocks = [Block("claims", content={"cards": cards}, caption=RULES)]
    if every:
        marks = _marks(every, material)
        blocks.append(Block("table", table.title, table=table, marks=marks, folded=f"All {len(every)} comparisons"))
    return Section("claims", "Claims of the paper", blocks=blocks)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _marks(every: list[Evidence], material: Material) -> list[Markup]:
    """Each comparison's interval, on one axis for points and one for plain numbers."""
    spans = {"points": 1e-9, "": 1e-9}
    for one in every:
        if one.test is not None:
            scale = 100 if one.unit == "points" else 1
            reach = max(map(abs, one.interval or [scale * one.test.mean]))
            spans[one.unit] = max(spans[one.unit], min(reach, 100.0))
    out = []
    for one in every:
        if one.test is None:
            out.append(Markup(""))
            continue
        scale = 100 if one.unit == "points" else 1
        low, high = one.interval or (None, None)
        colour = material.colours.css_class(one.about)
        out.append(interval_mark(scale * one.test.mean, low, high, spans[one.unit], colour))
    return out
