"""The columns of our tables: the paper's, and its PGD under the strong protocol beside that of its library."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..paper.numbers import COLUMNS, Column

_PGD = [each for each in COLUMNS if each.attack == "pgd"]
CLEAN = COLUMNS[0]
LIBRARY = tuple(_PGD)
STRONG = tuple(replace(each, name=f"{each.name} strong", protocol="strong") for each in _PGD)
AUTO_ATTACK = tuple(each for each in COLUMNS if each.attack == "autoattack")
OURS = (CLEAN, *LIBRARY, *STRONG, *AUTO_ATTACK)


def is_of(row: Mapping[str, Any], column: Column) -> bool:
    """Whether a score or verdict row is what the column shows."""
    if row.get("attack") != column.attack:
        return False
    if column.norm is None or column.eps is None:
        return True
    same = (row.get("protocol"), row.get("norm")) == (column.protocol, column.norm)
    return same and abs(float(row.get("eps") or 0.0) - column.eps) < 1e-9
