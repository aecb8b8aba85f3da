"""A table: rows of cells with a title and a caption. How it is written is in :mod:`.formats`."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..stats import Aggregate, accuracy_interval


@dataclass(frozen=True)
class Cell:
    """A figure, as text and as a number.

    Args:
        text: what is shown.
        value: the number to sort by, in the unit of the text.
        low, high: the ends of its interval.
        seeds: number of seeds it is the mean of; n: number of points of each.
        bold: a test supports that it is the best of its column.
        style: of the terminal, such as "green".
        heat: in [0, 1], a shade of the cell in HTML.
    """

    text: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    n: int = 0
    bold: bool = False
    style: str = ""
    heat: float | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TableRow:
    """One row.

    Args:
        label: its heading, on the left.
        cells: one per column.
        muted: shown less prominently, such as the paper's rows beside ours.
        recipe: label of the recipe it is about, if any, for its colour in the report.
    """

    label: str
    cells: Sequence[Cell]
    muted: bool = False
    recipe: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Args:
        title: above the table.
        corner: heading of the column of row labels.
        columns: headings of the other columns.
        rows: each with one cell per column.
        caption: below the table.
        numeric: for each column, whether it holds numbers; all do by default.
        notes: sentences below the caption, each on a line of its own.
    """

    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[TableRow]
    caption: str = ""
    numeric: Sequence[bool] | None = None
    notes: Sequence[str] = ()

    @property
    def is_number(self) -> Sequence[bool]:
        """For each column, whether it holds numbers."""
        return self.numeric or [True] * len(self.columns)


def accuracy_cell(correct: int, n: int, digits: int = 1, bold: bool = False) -> Cell:
    """``92.25 ±0.6``: an accuracy in percent with half the width of its 95% interval (Wilson) in ``digits`` digits."""
    interval, percent = accuracy_interval(correct, n), 100 * correct / n
    text = f"{percent:.2f} ±{100 * interval.half_width:.{digits}f}"
    return Cell(text, percent, 100 * interval.low, 100 * interval.high, n=n, bold=bold)


def mean_cell(mean: Aggregate, digits: int = 2, n: int = 0, bold: bool = False) -> Cell:
    """``92.25 ±0.31``: a mean over seeds with half the width of its 95% interval; of one seed without."""
    text = f"{mean.mean:.{digits}f}"
    if mean.half_width is None:
        return Cell(text, mean.mean, None, None, mean.seeds, n, bold)
    ends = mean.mean - mean.half_width, mean.mean + mean.half_width
    return Cell(f"{text} ±{mean.half_width:.{digits}f}", mean.mean, *ends, mean.seeds, n, bold)
