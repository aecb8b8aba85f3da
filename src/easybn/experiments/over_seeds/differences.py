"""The paired tests between recipes as a table: over seeds and over points, in every column."""

from .columns import OURS
from .comparison import Comparison, compare, pairs
from .layout import Cell, Line, Table
from .recipes import Setting


def differences_table(setting: Setting) -> Table:
    """The paired differences of :func:`~.comparison.pairs` in every column, over seeds and over points."""
    lines = []
    for first, second in pairs(setting):
        for column in OURS:
            found = compare(first, second, column)
            if found.over_seeds is not None:
                lines.append(
                    Line(f"{found.first} \N{MINUS SIGN} {found.second}", _tested(found), colour_of=found.first)
                )
    caption = (
        "Differences of accuracy in points of a percent, paired by seed, with the 95% interval of their mean and the p "
        "of the paired t test; nothing where there is one seed. Points: how many only the one and only the other model "
        "gets right, over all seeds, and the p of McNemar's exact test: it speaks of these models, not of other seeds."
    )
    columns = ["column", "seeds", "difference", "p (t)", "only first", "only second", "p (McNemar)"]
    title = f"{setting.title}: paired tests"
    return Table(title, "First \N{MINUS SIGN} second", columns, lines, caption, numeric=[False, *[True] * 6])


def difference_text(found: Comparison) -> str:
    """``-0.31 ±0.22``, in points of a percent."""
    test = found.over_seeds
    if test is None:
        return ""
    half = "" if test.half_width is None else f" ±{100 * test.half_width:.2f}"
    return f"{signed(100 * test.mean)}{half}"


def signed(value: float, digits: int = 2) -> str:
    """With + or a minus sign; zero without."""
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else "\N{MINUS SIGN}") + text


def p_text(p: float | None) -> str:
    """Three digits, or that it is smaller; empty where unknown."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _tested(found: Comparison) -> list[Cell]:
    test, points = found.over_seeds, found.over_points
    assert test is not None
    mean = 100 * test.mean
    half = None if test.half_width is None else 100 * test.half_width
    low, high = (None, None) if half is None else (mean - half, mean + half)
    counts = [Cell(), Cell(), Cell()]
    if points is not None:
        counts = [
            Cell(f"{points.first_only:,}", points.first_only),
            Cell(f"{points.second_only:,}", points.second_only),
        ]
        counts.append(Cell(p_text(points.p), points.p))
    return [
        Cell(found.column.name),
        Cell(str(test.seeds), test.seeds),
        Cell(difference_text(found), mean, low, high, test.seeds),
        Cell(p_text(test.p), test.p),
        *counts,
    ]
