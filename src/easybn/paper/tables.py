"""The census as a table: easy images and easy copies of each class, mean over seeds with its 95% interval."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..perturb.eps import format_eps
from ..stats import accuracy_interval, aggregate, holm, t_quantile
from ..tables.aggregate import RecipeRuns, Setting
from ..tables.comparison import compare
from ..tables.rows import CLEAN, Column
from ..tables.scores import Block
from ..tables.table import Cell, Line, Table
from .columns import METHODS, TWINS
from .numbers import COLUMNS, OURS, PaperRow, nearest_row

# Tables 1 and 2 of the paper from our runs: means over seeds with intervals, tests, and the paper's rows beside.

LEVEL = 0.05
FEW = 2  # runs that repeat others and are named


def paper_table(setting: Setting) -> Table:
    """A row a recipe, a column for each of ``OURS`` that was measured, the paper's row below ours.

    A cell is bold if its mean is the best of ours in the column and a paired t test over seeds tells it from every
    other, at 5% over all of them together (Holm): with one seed nothing is bold.
    """
    columns = [column for column in OURS if column == CLEAN or any(each.scores(column) for each in setting.recipes)]
    one_seed = all(len(each.runs) == 1 for each in setting.recipes)
    best = {column: best_of(setting.recipes, column) for column in columns}
    lines = []
    for each in setting.recipes:
        cells = [accuracy_cell(each, column, best[column] == each.label, one_seed) for column in columns]
        lines.append(Line(each.label, cells, colour_of=each.label))
        if paper := paper_row_of(setting, each):
            cells = [_papers(percent(paper, column)) for column in columns]
            lines.append(Line(f"paper: {paper.row}", cells, aside=True))
    return Table(setting.title, "Recipe", [column.name for column in columns], lines, _caption(setting, columns))


def best_of(recipes: Sequence[RecipeRuns], column: Column) -> str:
    """The label of the recipe that the tests allow to be called the best of the column; empty if there is none."""
    means = {each.label: found.mean for each in recipes if (found := each.accuracy(column)) is not None}
    if len(means) < 2:
        return ""
    top = max(means, key=lambda label: means[label])
    first = next(each for each in recipes if each.label == top)
    tests = [compare(first, each, column).seed_test for each in recipes if each.label in means and each is not first]
    known = [test.p for test in tests if test is not None and test.p is not None and test.mean > 0]
    return top if len(known) == len(tests) and all(holm(known, LEVEL)) else ""


def paper_row_of(setting: Setting, recipe: RecipeRuns) -> PaperRow | None:
    """The paper's row of the method on the data, or its twin; of the smaller network where ours is another."""
    try:
        return nearest_row(TWINS.get(setting.data, setting.data), setting.model, METHODS.get(recipe.method, ""))
    except KeyError:
        return None


def percent(paper: PaperRow, column: Column) -> float | None:
    """The paper's figure; None where it has no such column."""
    return dict(zip(COLUMNS, paper.percent, strict=True)).get(column)


def accuracy_cell(recipe: RecipeRuns, column: Column, bold: bool = False, of_points: bool = False) -> Cell:
    """``92.25 ±0.31``: percent, mean over seeds and half the width of its 95% interval.

    Args:
        bold: it is the best.
        of_points: for a single seed give the interval for the test images drawn (Wilson) rather than none.
    """
    found, rows = recipe.accuracy(column), list(recipe.scores(column).values())
    if found is None:
        return Cell()
    mean, n = 100 * found.mean, max(row["n"] for row in rows)
    if found.half_width is not None:
        half = 100 * found.half_width
        return Cell(f"{mean:.2f} ±{half:.2f}", mean, mean - half, mean + half, found.seeds, n, bold)
    if not of_points:
        return Cell(f"{mean:.2f}", mean, None, None, found.seeds, n, bold)
    interval = accuracy_interval(rows[0]["correct"], rows[0]["n"])
    text = f"{mean:.2f} ±{100 * interval.half_width:.2f}"
    return Cell(text, mean, 100 * interval.low, 100 * interval.high, found.seeds, n, bold)


def _papers(value: float | None) -> Cell:
    return Cell() if value is None else Cell(f"{value:.2f}", value)


def _caption(setting: Setting, columns: Sequence[Column]) -> str:
    seeds = sorted({len(each.runs) for each in setting.recipes})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    if seeds[-1] == 1:
        words = (
            "Accuracy in % with the half-width of its 95% interval for the test images drawn (Wilson): one seed, which "
            "says nothing of others, so that nothing is bold."
        )
    else:
        t = f", t = {t_quantile(seeds[-1] - 1, 0.95):.2f}" if len(seeds) == 1 else ""
        words = (
            f"Accuracy in %, mean over {many} seeds with the half-width of its 95% interval (Student{t}; the spread "
            "is taken to be at least that of rounding to whole images). Bold: the best of the column, told from every "
            "other recipe by a paired t test over seeds (5%, Holm)."
        )
        words += " Without an interval: one seed." if seeds[0] == 1 else ""
    words += f" Basic: {_counts(setting, [CLEAN], 'n')} test images." if _rows(setting, [CLEAN]) else ""
    attacked = [column for column in columns if column != CLEAN]
    if attacked:
        words += f" Attacks: {_counts(setting, attacked, 'n')} test images"
        pgd = [column for column in attacked if column.attack == "pgd"]
        words += f", PGD {_counts(setting, pgd, 'steps')} steps" if pgd else ""
        words += "; l2 as the library robustness computes it, strong: float64 losses, any misclassified iterate."
    unlike = {paper.data for each in setting.recipes if (paper := paper_row_of(setting, each))} - {setting.data}
    words += f" The paper's rows are of {', '.join(sorted(unlike))}: other images." if unlike else ""
    told = list(setting.repeated)
    if len(told) > FEW:
        told[1:] = [f"So are {len(told) - 1} more that repeat another's seed."]
    return " ".join([words, *told])


def _rows(setting: Setting, columns: Sequence[Column]) -> list[dict[str, object]]:
    return [row for column in columns for each in setting.recipes for row in each.scores(column).values()]


def _counts(setting: Setting, columns: Sequence[Column], key: str) -> str:
    return " / ".join(f"{value:,}" for value in sorted({row[key] for row in _rows(setting, columns)}))  # type: ignore[type-var]


# Relative distances of hidden states: a table a perturbation, with a row a layer and a column a run.

CAPTION = (
    "In all tables: ||h(x') - h(x)|| / ||h(x)|| in %, mean over test images ± the half-width of its 95% interval. Each "
    "model has perturbations made for itself. A network that maps hidden states back has numbers that shrink with "
    "depth, and are smaller than those of one trained without; noise of the same size is the control."
)
"""How to read them, to be printed once."""


def tables(found: Mapping[str, Sequence[dict[str, Any]]]) -> list[Block]:
    """A block for each perturbation and eps.

    Args:
        found: the rows of each model, by its name; models of different depths stand side by side by depth.
    """
    requests = dict.fromkeys(_request(row) for rows in found.values() for row in rows)
    return [_table(found, request) for request in requests]


def _request(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["perturbation"], row["norm"], row["eps"], row["steps"]


def _table(found: Mapping[str, Sequence[dict[str, Any]]], request: tuple[Any, ...]) -> Block:
    mine = {name: [row for row in rows if _request(row) == request] for name, rows in found.items()}
    columns = {name: {_place(row): row for row in rows} for name, rows in mine.items()}
    places = sorted({place for column in columns.values() for place in column})
    body = []
    for place in places:
        names = dict.fromkeys(column[place]["layer"] for column in columns.values() if place in column)
        body.append((" / ".join(names), [_cell(column.get(place)) for column in columns.values()]))
    perturbation, norm, eps, steps = request
    made = "" if steps is None else f", {steps} step{'s' * (steps > 1)}"
    counts = sorted({row["images"] for rows in mine.values() for row in rows})
    images = f"{' / '.join(f'{count:,}' for count in counts)} test images"
    return Block(f"{perturbation}, {norm} {format_eps(eps, norm)}{made}", list(columns), body, images, head="Layer")


def _place(row: dict[str, Any]) -> tuple[bool, int]:
    """The logits of all models stand in one row, the last."""
    return row["depth"] == row["depths"], row["depth"] if row["depth"] < row["depths"] else 0


def _cell(row: dict[str, Any] | None) -> str | None:
    if row is None:
        return None
    return f"{100 * row['relative_distance']:.2f} ±{100 * (row['high'] - row['relative_distance']):.2f}"


CENSUS_COLUMNS = ["images", "easy", "easy, %", "easy copies, %"]


def block(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> Block:
    """The table of the last epoch.

    Args:
        rows: of :func:`easybn.experiments.census.census`, of any epochs.
        pairs: of overlap.jsonl, of the same census.
    """
    last = max(row["epoch"] for row in rows)
    shown = [row for row in rows if row["epoch"] == last]
    body = [
        (each["class"], _cells([row["per_class"][label] for row in shown]))
        for label, each in enumerate(shown[0]["per_class"])
    ]
    body.append(("all", _cells(shown)))
    first = shown[0]
    title = (
        f"{first['model']} ({first['recipe'].rpartition('.')[2]}) on {first['data']} after epoch {last} of "
        f"{first['training_epochs']}: easy is correct with a confidence above {first['threshold']:g}"
    )
    return Block(title, CENSUS_COLUMNS, body, caption(rows, pairs), head="Class")


def caption(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> str:
    """What stands below the table: seeds, overlap, copies, earlier epochs."""
    last = max(row["epoch"] for row in rows)
    shown = [row for row in rows if row["epoch"] == last]
    seeds = len(shown)
    spread = f"Means over {seeds} seeds ± the half-width of their 95% interval (t). " if seeds > 1 else "One seed. "
    of = [pair for pair in pairs if pair["epoch"] == last]
    text = spread + f"Accuracy on these images: {_percent(shown, 'accuracy')}. "
    if of:
        text += (
            f"Overlap of the easy ones of two seeds, {len(of)} pair{'s' * (len(of) > 1)}: "
            f"Jaccard {_mean(of, 'jaccard')} ({_mean(of, 'jaccard_by_chance')} by chance), "
            f"Cohen's kappa {_mean(of, 'kappa')}. "
        )
    text += (
        f"Easy copies: one easy step of {format_eps(shown[0]['eps'], 'linf')} in linf for the same network; the "
        f"label's confidence moves by {_percent(shown, 'confidence_shift', '+.1f')} points."
    )
    if last > 1:
        every = sorted({row["epoch"] for row in rows})
        parts = [f"{e}: {_percent([row for row in rows if row['epoch'] == e], 'easy_share')}" for e in every]
        text += f" Easy by epoch, in %: {', '.join(parts)}."
    return text


def _cells(rows: Sequence[dict[str, Any]]) -> list[str]:
    n = rows[0]["n"]
    easy = aggregate([row["easy"] for row in rows])
    if not n:
        return ["0", "0", "", ""]
    shares = [aggregate([100 * row[name] / n for row in rows]) for name in ("easy", "copies_easy")]
    cells = [
        f"{found.mean:.1f}" + ("" if found.half_width is None else f" ±{found.half_width:.1f}") for found in shares
    ]
    return [f"{n:,}", f"{easy.mean:,.0f}", *cells]


def _percent(rows: Sequence[dict[str, Any]], key: str, form: str = ".1f") -> str:
    found = aggregate([100 * row[key] for row in rows])
    return f"{found.mean:{form}}" + ("" if found.half_width is None else f" ±{found.half_width:.1f}")


def _mean(pairs: Sequence[dict[str, Any]], key: str) -> str:
    values = [pair[key] for pair in pairs if pair[key] is not None]
    return f"{sum(values) / len(values):.2f}" if values else "undefined"
