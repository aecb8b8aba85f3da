"""The paper's columns beside ours: its number, ours under its protocol, ours under the strong one, and the worst."""

from collections.abc import Sequence
from dataclasses import dataclass

from .contradictions import ROUNDING, called, chance, contradictions
from .paper_numbers import COLUMNS, Column, PaperRow
from .score import Score


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
        row: of the paper, see :func:`~easybn.evaluation.paper_numbers.paper_row`.
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
