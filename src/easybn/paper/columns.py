"""The paper's columns beside ours: its number, ours under its protocol, under the strong one, and the worst case."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..evaluation.result import ROUNDING, Score, called, chance, contradictions, worst_case
from ..evaluation.store import Store
from ..runs.run import Run
from ..tables.rows import Column
from ..tables.scores import Block, Cell, title
from .numbers import COLUMNS, ROWS, TEST_IMAGES, PaperRow, nearest_row

# The paper's columns beside ours: its number, ours under its protocol, ours under the strong one, and the worst.


@dataclass(frozen=True)
class PaperColumn:
    """A column of the paper's tables, for one model.

    Args:
        column: what it measures.
        paper: the paper's number, as a score; None if it has no row for the model.
        protocol: ours by the paper's attack and protocol; None if it was not measured, as with the others.
        strong: ours by PGD under the strong protocol in that norm at that eps; None for clean accuracy.
        worst: the least of our scores of attacks that bound it: in its norm at its eps or a smaller one; of clean
            accuracy the least measurement of that.
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
        scores: ours, of one model, in any order; of several of one kind that of most points counts.
        row: of the paper, see :func:`~easybn.paper.numbers.paper_row`.
        unlike: in what the paper's model is another one than ours, such as "another network"; told where its number
            is away from ours.
    """
    theirs = row.scores if row else [None] * len(COLUMNS)
    return [_column(each, paper, scores, row, unlike) for each, paper in zip(COLUMNS, theirs, strict=True)]


def _column(
    column: Column, paper: Score | None, scores: Sequence[Score], row: PaperRow | None, unlike: str
) -> PaperColumn:
    protocol = _find(scores, column.attack, column.protocol, column)
    strong = _find(scores, "pgd", "strong", column) if column.norm else None
    in_reach = [score for score in scores if (_within(score, column) if column.norm else score.eps is None)]
    worst = min(in_reach, key=lambda score: score.accuracy, default=None)
    flags = [f"the paper: {each}" for each in contradictions(row.scores if row else []) if each.higher == paper]
    flags += [f"ours: {each}" for each in contradictions(scores) if each.higher in (protocol, strong)]
    if protocol is not None and column.norm:
        lower = [score for score in (strong, worst) if score is not None and score != protocol]
        flags += list(dict.fromkeys(_gap(score, protocol) for score in lower if _below(score, protocol)))
    if paper is not None and protocol is not None:
        away = paper.accuracy - protocol.accuracy
        if abs(away) > chance(paper, protocol):
            flags.append(
                f"the paper's {100 * paper.accuracy:.2f} is {100 * abs(away):.2f} points "
                f"{'above' if away > 0 else 'below'} ours under its protocol{f' ({unlike})' if unlike else ''}"
            )
    return PaperColumn(column, paper, protocol, strong, worst, tuple(flags))


def _find(scores: Sequence[Score], attack: str, protocol: str | None, column: Column) -> Score | None:
    """That of most points."""
    kind = [score for score in scores if (score.attack, score.protocol) == (attack, protocol)]
    if column.eps is not None:
        kind = [score for score in kind if _within(score, column) and _same(score.eps, column.eps)]
    return max(kind, key=lambda score: score.n, default=None)


def _within(score: Score, column: Column) -> bool:
    """In the norm of the column, at its eps or a smaller one."""
    if score.eps is None or column.eps is None or score.norm != column.norm:
        return False
    return score.eps < column.eps or _same(score.eps, column.eps)


def _same(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) <= ROUNDING


def _below(score: Score, protocol: Score) -> bool:
    return protocol.accuracy - score.accuracy > chance(score, protocol)


def _gap(score: Score, protocol: Score) -> str:
    return (
        f"ours: {called(score)} leaves {100 * score.accuracy:.2f}, {100 * (protocol.accuracy - score.accuracy):.2f} "
        f"points less than {called(protocol)}: do not quote the latter alone"
    )


METHODS = {"AdvProp": "advprop", "EBN": "ebn"}
TWINS = {"cifar10-jpeg": "cifar10", "sample": "fashion-mnist"}
"""Data sets of other pixels, or fewer of them, that a column of the paper may still stand beside."""
STEPS = 100  # of the paper's PGD


@dataclass(frozen=True)
class Beside:
    """A run beside the paper's row.

    Args:
        block: a line for each of the paper's columns.
        flags: what does not fit together, a sentence each, numbered as in the block.
    """

    block: Block
    flags: list[str]

    def markdown(self) -> str:
        """For a README."""
        return "\n".join([self.block.markdown(), *self.flags, ""])


def beside_the_paper(run: Run) -> Beside:
    """The deployed branch of a run beside the paper's row of the same data set and recipe.

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
    scores = _scores(run, rows)
    columns = paper_columns(scores, paper, ", ".join(unlike))
    flags = [f"{each.column.name}: {flag}" for each in columns for flag in each.flags]
    numbered = [f"{number}. {flag}" for number, flag in enumerate(flags, 1)]
    remark = f" ({', '.join(unlike)})" if unlike else ""
    shown = f"{run.folder.name}, {title(run)} beside the paper's {paper.row}, table {paper.table}{remark}"
    return Beside(_block(shown, columns, scores), numbered)


def in_the_paper() -> Block:
    """Where the paper's own columns contradict each other: figures that a stronger attack cannot leave."""
    lines: list[tuple[str, list[Cell | str | None]]] = []
    for row in ROWS:
        for each in contradictions(row.scores):
            names = [_column_of(score) for score in (each.higher, each.lower)]
            cells = [Cell(score.correct, score.n) for score in (each.higher, each.lower)]
            by = f"{100 * each.excess:.2f} ({100 * each.allowed:.2f})"
            lines.append((f"table {row.table}, {row.row}", [names[0], cells[0], names[1], cells[1], by]))
    caption = (
        f"Accuracy in % with the half-width of its 95% interval for {TEST_IMAGES:,} test images. By: points in %, and "
        "in brackets what chance allows. AutoAttack contains 100 steps of APGD."
    )
    columns = ["column", "leaves", "above", "leaves", "by"]
    return Block("Contradictions inside the paper's tables", columns, lines, caption, head="Row")


def _column_of(score: Score) -> str:
    same = ((score.attack, score.norm, score.eps) == (each.attack, each.norm, each.eps) for each in COLUMNS)
    return next(each.name for each, yes in zip(COLUMNS, same, strict=True) if yes)


def _scores(run: Run, rows: Sequence[dict[str, Any]]) -> list[Score]:
    """The latest first, and what all stored verdicts together leave at the radii of the paper's columns."""
    known = {each.name for each in fields(Score)}
    scores = [Score.from_dict({name: row[name] for name in known & set(row)}) for row in reversed(rows)]
    scores = [score for score in scores if score.protocol != "robustness" or score.steps == STEPS]
    stores = _stores(run)
    together = [worst_case(stores, each.norm, each.eps) for each in COLUMNS[1:] if each.norm and each.eps]
    return scores + list(dict.fromkeys(score for score in together if score is not None))


def _stores(run: Run) -> list[Store]:
    """The verdicts on the deployed branch."""
    folders = sorted(path.parent for path in run.folder.glob("verdicts/*/manifest.json"))
    stores = [store for store in map(Store.existing, folders) if store.deployed]
    # all of one model: the folder's, by whatever was evaluated last
    newest = max(stores, key=lambda store: store.folder.stat().st_mtime, default=None)
    return [store for store in stores if newest and store.manifest.model == newest.manifest.model]


def _block(name: str, columns: Sequence[PaperColumn], scores: Sequence[Score]) -> Block:
    lines: list[tuple[str, list[Cell | str | None]]] = []
    number = 0
    for each in columns:
        cells = [
            None if score is None else Cell(score.correct, score.n)
            for score in (each.paper, each.protocol, each.strong, each.worst if each.column.norm else None)
        ]
        marks = ", ".join(str(number + i) for i in range(1, len(each.flags) + 1))
        number += len(each.flags)
        lines.append((each.column.name, [*cells, marks]))
    ours = [score for each in columns for score in (each.protocol, each.strong, each.worst) if score is not None]
    caption = "Accuracy in % with the half-width of its 95% interval (Wilson). Ours: "
    caption += f"{' / '.join(f'{n:,}' for n in sorted({score.n for score in ours}))} test images" if ours else "nothing"
    sizes = sorted({score.batch_size for score in scores if score.protocol == "robustness" and score.batch_size})
    caption += f"; batch size of its protocol {' / '.join(f'{size:,}' for size in sizes)}." if sizes else "."
    return Block(
        name, ["the paper", "ours, its protocol", "ours, strong", "worst case", "flags"], lines, caption, "Column"
    )
