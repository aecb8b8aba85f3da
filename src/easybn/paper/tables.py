"""The paper's tables from our runs: tables 1 and 2 over seeds with their tests, its claims with verdicts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ..json_files import Row
from ..stats import Aggregate, holm, t_quantile
from ..tables.aggregate import RecipeRuns, Setting
from ..tables.comparison import compare, difference_cell, p_text, paired_t_cells
from ..tables.rows import CLEAN, MCA, Column
from ..tables.table import Cell, Table, TableRow, accuracy_cell, mean_cell
from .claims import FAILS, HOLDS, NOT_MEASURED, RULES, UNDECIDED, Evidence, Judged
from .columns import COLUMNS, METHODS, OURS, TWINS, PaperRow, nearest_row

# The claims as tables and as text: a row per claim, and a row per comparison.


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


LEVEL = 0.05
FEW = 2  # more runs than this that repeat others are counted, not named


def paper_table(setting: Setting) -> Table:
    """A row per recipe, a column for each of ``OURS`` that was measured, the paper's row below ours.

    A cell is bold if its mean is the best of ours in the column and a paired t test over seeds distinguishes it from
    every other, at 5% over all of them together (Holm): with one seed nothing is bold.
    """
    columns = [column for column in OURS if column == CLEAN or any(each.scores(column) for each in setting.recipes)]
    one_seed = all(len(each.runs) == 1 for each in setting.recipes)
    best = {column: best_of(setting.recipes, column) for column in columns}
    rows = []
    for recipe in setting.recipes:
        cells = [recipe_cell(recipe, column, best[column] == recipe.label, one_seed) for column in columns]
        rows.append(TableRow(recipe.label, cells, recipe=recipe.label))
        if paper := paper_row_of(setting, recipe):
            cells = [_paper_cell(percent(paper, column)) for column in columns]
            rows.append(TableRow(f"paper: {paper.row}", cells, muted=True))
    return Table(setting.title, "Recipe", [column.name for column in columns], rows, _caption(setting, columns))


def best_of(recipes: Sequence[RecipeRuns], column: Column) -> str:
    """The label of the recipe that the tests allow to be called the best of the column; empty if there is none."""
    means = {each.label: accuracy.mean for each in recipes if (accuracy := each.accuracy(column)) is not None}
    if len(means) < 2:
        return ""
    top = max(means, key=lambda label: means[label])
    first = next(each for each in recipes if each.label == top)
    tests = [compare(first, each, column).seed_test for each in recipes if each.label in means and each is not first]
    known = [test.p for test in tests if test is not None and test.p is not None and test.mean > 0]
    return top if len(known) == len(tests) and all(holm(known, LEVEL)) else ""


def paper_row_of(setting: Setting, recipe: RecipeRuns) -> PaperRow | None:
    """The paper's row of the method on the data, or its twin; that of the smaller network where ours is another."""
    try:
        return nearest_row(TWINS.get(setting.data, setting.data), setting.model, METHODS.get(recipe.method, ""))
    except KeyError:
        return None


def percent(paper: PaperRow, column: Column) -> float | None:
    """The paper's figure; None where it has no such column."""
    return dict(zip(COLUMNS, paper.percent, strict=True)).get(column)


def recipe_cell(recipe: RecipeRuns, column: Column, bold: bool = False, of_points: bool = False) -> Cell:
    """``92.25 ±0.31``: percent, mean over seeds and half the width of its 95% interval.

    Args:
        bold: it is the best.
        of_points: for a single seed give the interval for the test images drawn (Wilson) rather than none.
    """
    accuracy, scores = recipe.accuracy(column), list(recipe.scores(column).values())
    if accuracy is None:
        return Cell()
    if accuracy.half_width is None and of_points and column in MCA:
        (row,) = scores  # its answers share their points: the row has the interval
        low, high = 100 * row["low"], 100 * row["high"]
        text = f"{100 * accuracy.mean:.2f} ±{(high - low) / 2:.2f}"
        return Cell(text, 100 * accuracy.mean, low, high, 1, row["test_images"], bold)
    if accuracy.half_width is None and of_points:
        cell = accuracy_cell(scores[0]["correct"], scores[0]["n"], 2, bold)
        return replace(cell, seeds=1)
    half = None if accuracy.half_width is None else 100 * accuracy.half_width
    n = max(score["test_images" if column in MCA else "n"] for score in scores)
    return mean_cell(Aggregate(100 * accuracy.mean, half, accuracy.seeds), 2, n, bold)


def _paper_cell(value: float | None) -> Cell:
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
            "is taken to be at least that of rounding to whole images). Bold: the best of the column, different from "
            "every other recipe by a paired t test over seeds (5%, Holm)."
        )
        words += " Without an interval: one seed." if seeds[0] == 1 else ""
    words += f" Basic: {_values(setting, [CLEAN], 'n')} test images." if _scores(setting, [CLEAN]) else ""
    corrupted = [column for column in columns if column in MCA]
    attacked = [column for column in columns if column != CLEAN and column not in MCA]
    if attacked:
        words += f" Attacks: {_values(setting, attacked, 'n')} test images"
        pgd = [column for column in attacked if column.attack == "pgd"]
        words += f", PGD {_values(setting, pgd, 'steps')} steps" if pgd else ""
        words += "; l2 as the library robustness computes it, strong: float64 losses, any misclassified iterate."
    if corrupted:
        words += f" mCA: {_values(setting, corrupted, 'test_images')} test images, mean over 15 common corruptions at "
        words += "five severities, made here (frost is drawn)."
        words += " Published: the files of CIFAR-10-C or its kin." if MCA[1] in corrupted else ""
    unlike = {paper.data for each in setting.recipes if (paper := paper_row_of(setting, each))} - {setting.data}
    words += f" The paper's rows are of {', '.join(sorted(unlike))}: other images." if unlike else ""
    repeated = list(setting.repeated)
    if len(repeated) > FEW:
        repeated[1:] = [f"So are {len(repeated) - 1} more that repeat another's seed."]
    return " ".join([words, *repeated])


def _scores(setting: Setting, columns: Sequence[Column]) -> list[Row]:
    return [row for column in columns for each in setting.recipes for row in each.scores(column).values()]


def _values(setting: Setting, columns: Sequence[Column], key: str) -> str:
    return " / ".join(f"{value:,}" for value in sorted({row[key] for row in _scores(setting, columns)}))
