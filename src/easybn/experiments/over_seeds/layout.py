"""A table of text: rows of cells, some bold, with a title and a caption; how it is written is :mod:`.formats`."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A figure as shown, and as a number.

    Args:
        text: what is shown.
        value: by which it is sorted, in the unit of the text.
        low, high: the ends of its interval.
        seeds: of how many seeds; n: of how many points each.
        bold: a test supports that it is the best of its column.
        style: of the terminal, such as "green".
    """

    text: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    n: int = 0
    bold: bool = False
    style: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Line:
    """A row.

    Args:
        name: its head.
        cells: one a column.
        aside: of others, such as the paper: shown muted.
        colour_of: the recipe it is about, if any.
    """

    name: str
    cells: Sequence[Cell]
    aside: bool = False
    colour_of: str = ""


@dataclass(frozen=True)
class Table:
    """Args: head: above the names of the lines; numeric: the columns that hold numbers, all by default."""

    title: str
    head: str
    columns: Sequence[str]
    lines: Sequence[Line]
    caption: str = ""
    numeric: Sequence[bool] | None = None

    @property
    def is_number(self) -> Sequence[bool]:
        """A value a column."""
        return self.numeric or [True] * len(self.columns)
