"""Labels in another order than the model's outputs: off by one, swapped, sorted as text, of another list of classes.

The answers of a good model under wrong labels are not noise: another assignment of labels to outputs makes most of
them right. A bad model has no such assignment, however poor its accuracy is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...stats import SIGNIFICANT, mcnemar
from .subject import Finding, share

if TYPE_CHECKING:
    from .subject import Subject

FOLDS = 5
"""An assignment is found on all but a fifth of the points and tested on that: with few points any can be fitted."""
MAJORITY = 0.5
"""Of the points that get an output, those that must be of the label it is assigned to."""
LEFTOVER = 0.4
"""Of the points that the assignment gets right in the classes it moves, those right as given, at most."""
EXPLAINED = {2: 0.8, 3: 0.7, 4: 0.7}
"""Cohen's kappa of answers and labels under an assignment of so many classes; 0 for a model that does not look. Two
clusters lie the wrong way round in half of all untrained models, and may be far apart."""
NAMED, FITTED_MANY = 0.3, 0.4
"""The same for more classes, under an order that people meet and under one that was fitted."""
FITTED = 0.01
"""Bound of p for a fitted assignment, which has to meet the bounds above too."""
CYCLE = 0.65
"""Of the points of classes that change places among themselves, those that the assignment must get right."""
SHOWN = 6


@dataclass(frozen=True)
class LabelOrder:
    """An assignment of labels to outputs under which the answers make sense.

    Args:
        output: int64 (K,), for each label the output that seems to be its class; itself where nothing is known.
        moved: int64 (m,), the labels whose output is another, ascending.
        name: what the assignment is, in words.
        before, after: points that are right as given, and under the assignment.
        p: of McNemar's test between the two.
    """

    output: NDArray[np.int64]
    moved: NDArray[np.int64]
    name: str
    before: int
    after: int
    p: float

    def pairs(self) -> str:
        """The first moved labels with their outputs."""
        told = [f"label {label} is output {self.output[label]}" for label in self.moved[:SHOWN]]
        return ", ".join(told) + (f" and {len(self.moved) - SHOWN} more" if len(self.moved) > SHOWN else "")


def label_order(answers: NDArray[np.int64], labels: NDArray[np.int64], outputs: int) -> LabelOrder | None:
    """The assignment that explains the answers far better than the labels as given; None if there is none.

    Args:
        answers: (n,) the predicted outputs, 0 .. outputs - 1; labels: (n,), in the same range.
        outputs: K, at least 2.
    """
    named = list(_named(outputs))
    for name, output in named:
        if found := _known(answers, labels, output, name, SIGNIFICANT / len(named)):
            return found
    return _assigned(answers, labels, outputs)


def _named(outputs: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Orders that people meet. They are not fitted to the answers, so that few points prove them."""
    classes = np.arange(outputs)
    if outputs > 2:  # with two classes all of them are the swap, which is found by assignment
        yield "every label is one too small (a background class at output 0?)", (classes + 1) % outputs
        yield "every label is one too large (labels that count from 1?)", (classes - 1) % outputs
        yield "the labels are in reversed order", classes[::-1].copy()
    if outputs > 10:
        as_text = np.array(sorted(range(outputs), key=str))
        yield "the labels are numbered in numerical order, the model's classes as text (10 before 2)", as_text.argsort()
        yield "the labels are numbered as text (10 before 2), the model's classes in numerical order", as_text


def _known(
    answers: NDArray[np.int64], labels: NDArray[np.int64], output: NDArray[np.int64], name: str, significant: float
) -> LabelOrder | None:
    hits, right = answers == output[labels], answers == labels
    p = mcnemar(int((right & ~hits).sum()), int((hits & ~right).sum()))
    if hits.sum() <= right.sum() or p >= significant:
        return None
    seen = np.unique(labels)
    moved = seen[output[seen] != seen]
    explained = [(hits & (labels == label)).sum() > (right & (labels == label)).sum() for label in moved]
    inside = np.isin(labels, moved)
    if 2 * sum(explained) < len(moved) or right[inside].sum() > LEFTOVER * hits[inside].sum():
        return None
    if _kappa(answers, labels, output, hits) < EXPLAINED.get(len(seen), NAMED):
        return None
    return LabelOrder(output, moved, name, int(right.sum()), int(hits.sum()), p)


def _assigned(answers: NDArray[np.int64], labels: NDArray[np.int64], outputs: int) -> LabelOrder | None:
    """Any one-to-one assignment that the points themselves suggest, tested on points it was not found on."""
    seen, right = np.unique(labels), answers == labels
    fold = np.zeros(len(labels), np.int64)
    for label in seen:
        (rows,) = np.nonzero(labels == label)
        fold[rows] = np.arange(len(rows)) % FOLDS
    hits = np.zeros(len(labels), bool)
    for number in range(FOLDS):
        out = fold == number
        hits[out] = answers[out] == _assignment(answers[~out], labels[~out], outputs)[labels[out]]
    output = _assignment(answers, labels, outputs)
    explained = _kappa(answers, labels, output, hits) >= EXPLAINED.get(len(seen), FITTED_MANY)
    moved = np.array([label for label in seen if _moves(answers, labels, label, output[label])], np.int64)
    other = np.arange(outputs)
    if explained and len(moved) * 2 >= len(seen):
        other = output
    elif explained or len(seen) not in EXPLAINED:
        moved = _closed(moved, output)
        inside = np.isin(labels, moved)
        if not len(moved) or hits[inside].mean() < CYCLE:
            return None
        other[moved] = output[moved]
    else:
        return None
    inside = np.isin(labels, moved)
    gained, lost = int((hits & ~right & inside).sum()), int((right & ~hits & inside).sum())
    p = mcnemar(lost, gained)
    if gained <= lost or p >= FITTED or right[inside].sum() > LEFTOVER * hits[inside].sum():
        return None
    after = int((answers == other[labels]).sum())
    return LabelOrder(other, moved, _in_words(moved, other), int(right.sum()), after, p)


def _assignment(answers: NDArray[np.int64], labels: NDArray[np.int64], outputs: int) -> NDArray[np.int64]:
    """(K,) the output of each label such that most answers are right; itself where the points do not say."""
    from scipy.optimize import linear_sum_assignment  # here, since importing it takes a quarter of a second

    seen = np.unique(labels)
    told = np.union1d(seen, answers)  # all that matter, of outputs that may be thousands
    counts = np.zeros((len(seen), len(told)))
    np.add.at(counts, (np.searchsorted(seen, labels), np.searchsorted(told, answers)), 1)
    rows, columns = linear_sum_assignment(counts + 0.5 * (seen[:, None] == told), maximize=True)
    known = counts[rows, columns] > 0
    output = np.arange(outputs)
    output[seen[rows[known]]] = told[columns[known]]
    return output


def _moves(answers: NDArray[np.int64], labels: NDArray[np.int64], label: int, output: int) -> bool:
    """Whether that other output is the label's most frequent answer, and most points that get it are of the label."""
    if output == label:
        return False
    of, to = labels == label, answers == output
    both = (of & to).sum()
    return bool(both == np.bincount(answers[of]).max() and both >= MAJORITY * to.sum())


def _closed(moved: NDArray[np.int64], output: NDArray[np.int64]) -> NDArray[np.int64]:
    """The largest part of ``moved`` whose outputs are its own labels."""
    while len(moved):
        kept = moved[np.isin(output[moved], moved) & np.isin(moved, output[moved])]
        if len(kept) == len(moved):
            break
        moved = kept
    return moved


def _kappa(
    answers: NDArray[np.int64], labels: NDArray[np.int64], output: NDArray[np.int64], hits: NDArray[np.bool_]
) -> float:
    """Cohen's kappa between the answers and the outputs that the labels should get: 0 if they are independent.

    Args:
        hits: (n,) which answers count as those that they should be.
    """
    shares = [np.bincount(each, minlength=len(output)) / len(labels) for each in (answers, output[labels])]
    chance = float((shares[0] * shares[1]).sum())
    return (float(hits.mean()) - chance) / (1 - chance) if chance < 1 else 0.0


def _in_words(moved: NDArray[np.int64], output: NDArray[np.int64]) -> str:
    swapped = [(a, output[a]) for a in moved if output[output[a]] == a and a < output[a]]
    if 2 * len(swapped) == len(moved):
        several = ", ".join(f"{a} and {b}" for a, b in swapped[:SHOWN])
        return f"classes {several} are swapped" + (f" (and {len(swapped) - SHOWN} more pairs)" * (len(swapped) > SHOWN))
    shifts = output[moved] - moved
    if len(moved) > 2 and (shifts == shifts[0]).all():
        return f"every label is {abs(shifts[0])} too {'small' if shifts[0] > 0 else 'large'}"
    return "the labels are in another order than the model's outputs"


def labels(subject: "Subject") -> list[Finding]:
    """The labels are in the order of the model's outputs."""
    order, n = subject.order, subject.n
    right = int(subject.correct.sum())
    if order is None:
        size = f"{share(right, n)} right, and no other assignment of labels to outputs explains the answers better"
        return [Finding("labels", "ok", "the labels are in the order of the model's outputs", size)]
    expected = n / len(order.output)
    chance = " (below chance)" if expected - right > 3 * expected**0.5 else ""
    size = f"{share(right, n)} right as given{chance}, {share(order.after, n)} if {order.pairs()} (p = {order.p:.1g})"
    return [
        Finding(
            "labels", "warning", f"the labels do not fit the model's classes: {order.name}", size,
            "accuracies count right answers as wrong, and attacks begin with points that count as misclassified",
            "bring the labels into the order of the model's outputs, or choose and order its outputs as the labels are",
        )
    ]  # fmt: skip
