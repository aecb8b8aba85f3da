"""The paper's own numbers, and runs beside them: ours under its protocol and the strong one, and the worst case."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from ..evaluation.auditing import audit_stores
from ..evaluation.result import ROUNDING, Score, chance, contradictions, display_name, worst_case
from ..evaluation.store import Store
from ..json_files import Row
from ..runs.run import Run
from ..tables.rows import CLEAN, MCA, Column
from ..tables.single_runs import run_title
from ..tables.table import Cell, Table, TableRow, accuracy_cell

# The robust accuracies that the Easy Batch Normalization paper reports: its tables 1 and 2, row by row.

METHODS = {"AdvProp": "advprop", "EBN": "ebn"}
"""Our recipe classes and the paper's methods."""
TWINS = {"cifar10-jpeg": "cifar10", "sample": "fashion-mnist"}
"""Data sets with other pixels, or fewer of them, that may still be compared with the paper's."""

TEST_IMAGES = 10_000
"""Test images of either data set; the paper attacks all of them, as far as it says."""


COLUMNS = (
    CLEAN,
    Column("l2 0.1", "pgd", "robustness", "l2", 0.1),
    Column("l2 0.5", "pgd", "robustness", "l2", 0.5),
    Column("l2 1.0", "pgd", "robustness", "l2", 1.0),
    Column("AA linf 8/255", "autoattack", "standard", "linf", 8 / 255),
    Column("AA l2 0.5", "autoattack", "standard", "l2", 0.5),
)
"""Section 4, Settings: 100-step l2 PGD of the ``robustness`` library, and AutoAttack's standard version."""

LIBRARY = tuple(each for each in COLUMNS if each.attack == "pgd")
STRONG = tuple(replace(each, name=f"{each.name} strong", protocol="strong") for each in LIBRARY)
AUTO_ATTACK = tuple(each for each in COLUMNS if each.attack == "autoattack")
OURS = (CLEAN, *LIBRARY, *STRONG, *AUTO_ATTACK, *MCA)
"""The columns of our tables: the paper's, beside its PGD the same under the strong protocol, and common corruptions."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a table, the mean over three seeds.

    Args:
        table: 1 or 2; row: as printed there.
        data, model, method: what it is about, in this package's names.
        percent: a number for each of ``COLUMNS``.
    """

    table: int
    row: str
    data: str
    model: str
    method: str
    percent: tuple[float, ...]

    @property
    def scores(self) -> list[Score]:
        """The numbers as scores of ``TEST_IMAGES`` points, a row for each of ``COLUMNS``."""
        return [
            Score(
                each.attack, TEST_IMAGES, round(percent / 100 * TEST_IMAGES),
                protocol=each.protocol, norm=each.norm, eps=each.eps, steps=100 if each.attack == "pgd" else 0,
            )
            for each, percent in zip(COLUMNS, self.percent, strict=True)
        ]  # fmt: skip


ROWS = (
    PaperRow(1, "RN-18 (AP)", "fashion-mnist", "resnet18", "advprop", (94.23, 82.82, 79.42, 76.20, 86.87, 90.90)),
    PaperRow(1, "RN-18 (EBN)", "fashion-mnist", "resnet18", "ebn", (94.28, 86.39, 83.27, 80.31, 86.93, 90.89)),
    PaperRow(1, "RN-50 (AP)", "fashion-mnist", "resnet50", "advprop", (94.40, 62.03, 60.05, 57.46, 85.28, 90.27)),
    PaperRow(1, "RN-50 (EBN)", "fashion-mnist", "resnet50", "ebn", (94.45, 63.02, 60.65, 58.63, 85.38, 90.20)),
    PaperRow(2, "RN-18 (AP)", "cifar10", "resnet18", "advprop", (93.62, 36.74, 29.17, 22.82, 43.12, 77.85)),
    PaperRow(2, "RN-18 (EBN)", "cifar10", "resnet18", "ebn", (93.81, 37.49, 30.08, 24.39, 43.75, 77.19)),
    PaperRow(2, "RN-50 (AP)", "cifar10", "resnet50", "advprop", (94.55, 38.43, 29.39, 21.96, 45.65, 78.34)),
    PaperRow(2, "RN-50 (EBN)", "cifar10", "resnet50", "ebn", (94.62, 38.01, 30.76, 23.54, 46.47, 78.05)),
)


def paper_row(data: str, model: str, method: str) -> PaperRow:
    """The row of that data set, model and method.

    Raises:
        KeyError: the paper has none.
    """
    for row in ROWS:
        if (row.data, row.model, row.method) == (data, model, method):
            return row
    raise KeyError(f"the paper has no row for {method} with {model} on {data}")


def nearest_row(data: str, model: str, method: str) -> PaperRow:
    """The row of that data set and method: that of the model, or else that of the smaller network.

    Raises:
        KeyError: the paper has none.
    """
    rows = [row for row in ROWS if (row.data, row.method) == (data, method)]
    if not rows:
        raise KeyError(f"the paper has no row for {method} on {data}")
    return next((row for row in rows if row.model == model), rows[0])


STEPS = 100  # of the paper's PGD


@dataclass(frozen=True)
class PaperColumn:
    """A column of the paper's tables, for one model.

    Args:
        column: what it measures.
        paper: the paper's number, as a score; None if it has no row for the model.
        protocol: ours by the paper's attack and protocol; this and the following are None if not measured.
        strong: ours by PGD under the strong protocol in that norm at that eps; None for clean accuracy.
        worst: the lowest of our scores of attacks that bound it: in its norm at its eps or a smaller one; of clean
            accuracy the lowest measurement of that.
        flags: what does not fit together, a sentence each; empty if everything does.
    """

    column: Column
    paper: Score | None
    protocol: Score | None
    strong: Score | None
    worst: Score | None
    flags: tuple[str, ...] = ()


def paper_columns(scores: Sequence[Score], row: PaperRow | None = None, unlike: str = "") -> list[PaperColumn]:
    """The columns of the paper for one model.

    Flagged are, beyond the 95% intervals: a column of the paper's that exceeds another which bounds it (AutoAttack
    above PGD in the same ball, robust above clean, a larger eps above a smaller one), the same among our scores,
    our strong protocol or worst case below our figure under the paper's protocol, and the paper's number away from
    ours.

    Args:
        scores: ours, of one model, in any order; of several of one kind the one with most points counts.
        row: of the paper, see :func:`~easybn.paper.columns.paper_row`.
        unlike: in what the paper's model differs from ours, such as "another network"; added where the numbers differ.
    """
    theirs = row.scores if row else [None] * len(COLUMNS)
    return [_column(column, paper, scores, row, unlike) for column, paper in zip(COLUMNS, theirs, strict=True)]


def _column(
    column: Column, paper: Score | None, scores: Sequence[Score], row: PaperRow | None, unlike: str
) -> PaperColumn:
    protocol = _find(scores, column.attack, column.protocol, column)
    strong = _find(scores, "pgd", "strong", column) if column.norm else None
    bounding = [score for score in scores if (_inside(score, column) if column.norm else score.eps is None)]
    worst = min(bounding, key=lambda score: score.accuracy, default=None)
    flags = [f"the paper: {each}" for each in contradictions(row.scores if row else []) if each.higher == paper]
    flags += [f"ours: {each}" for each in contradictions(scores) if each.higher in (protocol, strong)]
    if protocol is not None and column.norm:
        lower = [score for score in (strong, worst) if score is not None and score != protocol]
        flags += list(dict.fromkeys(_gap(score, protocol) for score in lower if _is_below(score, protocol)))
    if paper is not None and protocol is not None:
        difference = paper.accuracy - protocol.accuracy
        if abs(difference) > chance(paper, protocol):
            flags.append(
                f"the paper's {100 * paper.accuracy:.2f} is {100 * abs(difference):.2f} points "
                f"{'above' if difference > 0 else 'below'} ours under its protocol{f' ({unlike})' if unlike else ''}"
            )
    return PaperColumn(column, paper, protocol, strong, worst, tuple(flags))


def _find(scores: Sequence[Score], attack: str, protocol: str | None, column: Column) -> Score | None:
    """The score of that attack in the column with most points."""
    same = [score for score in scores if (score.attack, score.protocol) == (attack, protocol)]
    if column.eps is not None:
        same = [score for score in same if _inside(score, column) and _equal(score.eps, column.eps)]
    return max(same, key=lambda score: score.n, default=None)


def _inside(score: Score, column: Column) -> bool:
    """In the norm of the column, at its eps or a smaller one."""
    if score.eps is None or column.eps is None or score.norm != column.norm:
        return False
    return score.eps < column.eps or _equal(score.eps, column.eps)


def _equal(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) <= ROUNDING


def _is_below(score: Score, protocol: Score) -> bool:
    return protocol.accuracy - score.accuracy > chance(score, protocol)


def _gap(score: Score, protocol: Score) -> str:
    return (
        f"ours: {display_name(score)} leaves {100 * score.accuracy:.2f}, "
        f"{100 * (protocol.accuracy - score.accuracy):.2f} points less than {display_name(protocol)}: do not quote the "
        "latter alone"
    )


# As tables.


def beside_the_paper(run: Run) -> Table:
    """The deployed branch of a run beside the paper's row of the same data set and recipe; what does not fit as notes.

    Raises:
        KeyError: the paper has no such row; the message says of what.
    """
    if not (run.folder / "config.json").exists():
        raise KeyError(f"{run.folder.name}: a model of your own")
    config, rows = run.config, [row for row in run.scores if row.get("branch", "main") == "main"]
    recipe, data = config["recipe"]["class"], next((row["data"] for row in rows if "data" in row), config["data"])
    try:
        paper = nearest_row(TWINS.get(data, data), config["model"], METHODS.get(recipe, recipe))
    except KeyError as error:
        raise KeyError(f"{run.folder.name}: {recipe} on {data}") from error
    unlike = [f"other network: {config['model']}"] * (paper.model != config["model"])
    unlike += [f"other images: {data}"] * (paper.data != data)
    remark = f" ({', '.join(unlike)})" if unlike else ""
    title = f"{run.folder.name}, {run_title(run)} beside the paper's {paper.row}, table {paper.table}{remark}"
    scores = _scores(run, rows)
    return _beside_table(title, paper_columns(scores, paper, ", ".join(unlike)), scores)


def in_the_paper() -> Table:
    """Where the paper's own columns contradict each other: figures that a stronger attack cannot leave."""
    rows = []
    for row in ROWS:
        for each in contradictions(row.scores):
            pairs = [
                cell
                for score in (each.higher, each.lower)
                for cell in (Cell(_column_name(score)), accuracy_cell(score.correct, score.n))
            ]
            by = Cell(f"{100 * each.excess:.2f} ({100 * each.allowed:.2f})", 100 * each.excess)
            rows.append(TableRow(f"table {row.table}, {row.row}", [*pairs, by]))
    caption = (
        f"Accuracy in % with the half-width of its 95% interval for {TEST_IMAGES:,} test images. By: points in %, and "
        "in brackets what chance allows. AutoAttack contains 100 steps of APGD."
    )
    columns, numeric = ["column", "leaves", "above", "leaves", "by"], [False, True, False, True, True]
    return Table("Contradictions inside the paper's tables", "Row", columns, rows, caption, numeric)


def _column_name(score: Score) -> str:
    same = ((score.attack, score.norm, score.eps) == (each.attack, each.norm, each.eps) for each in COLUMNS)
    return next(each.name for each, yes in zip(COLUMNS, same, strict=True) if yes)


def _scores(run: Run, rows: Sequence[Row]) -> list[Score]:
    """The run's scores, the latest first, then the accuracy under all stored attacks at the paper's radii."""
    known = {each.name for each in fields(Score)}
    rows = [row for row in rows if row["attack"] != "corruptions"]  # no column of the paper, and bounds no attack
    scores = [Score.from_dict({name: row[name] for name in known & set(row)}) for row in reversed(rows)]
    scores = [score for score in scores if score.protocol != "robustness" or score.steps == STEPS]
    stores = _stores(run)
    together = [worst_case(stores, each.norm, each.eps) for each in COLUMNS[1:] if each.norm and each.eps]
    return scores + list(dict.fromkeys(score for score in together if score is not None))


def _stores(run: Run) -> list[Store]:
    """The verdicts on the deployed branch."""
    folders = sorted(path.parent for path in run.folder.glob("verdicts/*/manifest.json"))
    stores = [store for store in map(Store.existing, folders) if store.deployed]
    # all of one model: the one that was evaluated last
    newest = max(stores, key=lambda store: store.folder.stat().st_mtime, default=None)
    alike = [store for store in stores if newest and store.manifest.model == newest.manifest.model]
    return [each for store in alike for each in (store, *audit_stores(store))]


def _beside_table(title: str, columns: Sequence[PaperColumn], scores: Sequence[Score]) -> Table:
    rows: list[TableRow] = []
    notes: list[str] = []
    for each in columns:
        shown = (each.paper, each.protocol, each.strong, each.worst if each.column.norm else None)
        cells = [Cell() if score is None else accuracy_cell(score.correct, score.n) for score in shown]
        numbers = range(len(notes) + 1, len(notes) + 1 + len(each.flags))
        notes += [f"{n}. {each.column.name}: {flag}" for n, flag in zip(numbers, each.flags, strict=True)]
        rows.append(TableRow(each.column.name, [*cells, Cell(", ".join(map(str, numbers)))]))
    ours = [score for each in columns for score in (each.protocol, each.strong, each.worst) if score is not None]
    caption = "Accuracy in % with the half-width of its 95% interval (Wilson). Ours: "
    caption += f"{' / '.join(f'{n:,}' for n in sorted({score.n for score in ours}))} test images" if ours else "nothing"
    sizes = sorted({score.batch_size for score in scores if score.protocol == "robustness" and score.batch_size})
    caption += f"; batch size of its protocol {' / '.join(f'{size:,}' for size in sizes)}." if sizes else "."
    headings = ["the paper", "ours, its protocol", "ours, strong", "worst case", "flags"]
    return Table(title, "Column", headings, rows, caption, notes=notes)
