"""The paper's tables 1 and 2 from our runs, and the tests behind them."""

from ...paper.numbers import OURS
from ...paper.tables import paper_table
from ...tables.comparison import differences_table
from ...tables.rows import CLEAN
from ..page import Block, Material, Section


def section(material: Material) -> Section:
    blocks = []
    for setting in material.settings:
        if not any(each.scores(CLEAN) for each in setting.recipes):
            continue
        table, tests = paper_table(setting), differences_table(setting, OURS)
        blocks.append(Block("table", table.title, table.caption, table=table))
        if tests.rows:
            blocks.append(Block("table", caption=tests.caption, table=tests, folded="Paired tests between recipes"))
    missing = "" if blocks else "Nothing is measured yet: easybn evaluate RUNS."
    lead = "The paper's columns from our runs; below each of our rows the paper's, of its larger networks."
    return Section("tables", "Tables 1 and 2", lead if blocks else "", blocks, missing)
