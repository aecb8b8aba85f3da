"""From the answers of a census to rows: one a seed, one a pair of seeds."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from ...analysis.overlap import overlap
from ...rows import read_rows
from ...sealed import write_rows
from .answers import CensusAnswers


def seed_row(found: CensusAnswers, threshold: float, classes: Sequence[str]) -> dict[str, Any]:
    """What one training found.

    Returns:
        n, correct, accuracy, easy and easy_share (of all images), mean_confidence (of the class predicted) and
        mean_confidence_of_label; copies_correct, copies_easy, copies_easy_share, copies_mean_confidence; two measures
        of what the easy step does: confidence_shift, the mean change of the label's confidence, and made_easy, how
        many images are not easy and have an easy copy; per_class, a list of class, n, easy, copies_easy.
    """
    own, copies, n = found.own, found.copies, len(found.ids)
    easy, copies_easy = own.easy(threshold), copies.easy(threshold)
    per_class = []
    for label, name in enumerate(classes):
        of = found.labels == label
        counts = {"n": int(of.sum()), "easy": int((easy & of).sum()), "copies_easy": int((copies_easy & of).sum())}
        per_class.append({"class": name, **counts})
    return {
        "n": n,
        "correct": int(own.correct.sum()),
        "accuracy": int(own.correct.sum()) / n,
        "easy": int(easy.sum()),
        "easy_share": int(easy.sum()) / n,
        "mean_confidence": _mean(own.confidence),
        "mean_confidence_of_label": _mean(own.of_label),
        "copies_correct": int(copies.correct.sum()),
        "copies_easy": int(copies_easy.sum()),
        "copies_easy_share": int(copies_easy.sum()) / n,
        "copies_mean_confidence": _mean(copies.confidence),
        "confidence_shift": _mean(copies.of_label.double() - own.of_label.double()),
        "made_easy": int((copies_easy & ~easy).sum()),
        "per_class": per_class,
    }


def overlap_rows(found: Mapping[int, CensusAnswers], threshold: float) -> list[dict[str, Any]]:
    """A row for each pair of seeds: seed_a, seed_b, n, easy_a, easy_b, easy_both, jaccard, jaccard_by_chance, kappa.

    Args:
        found: by seed, all of the same images.
    """
    rows = []
    for (seed_a, a), (seed_b, b) in combinations(found.items(), 2):
        pair = overlap(a.own.easy(threshold), b.own.easy(threshold))
        counts = {"n": pair.n, "easy_a": pair.a, "easy_b": pair.b, "easy_both": pair.both}
        agreement = {"jaccard": pair.jaccard, "jaccard_by_chance": pair.jaccard_by_chance, "kappa": pair.kappa}
        rows.append({"seed_a": seed_a, "seed_b": seed_b, **counts, **agreement})
    return rows


def merge(path: Path, rows: list[dict[str, Any]], keys: list[str]) -> None:
    """Put ``rows`` in the place of those in the file that have the same ``keys``."""
    new = {tuple(row[key] for key in keys) for row in rows}
    kept = [row for row in read_rows(path) if tuple(row[key] for key in keys) not in new]
    write_rows(path, [*kept, *rows])


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
