"""What was measured of single runs, side by side: their scores, and how far perturbations move their hidden states."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.audit import Audit
from ..evaluation.config import FAST
from ..json_files import Row
from ..perturb.eps import format_eps
from ..runs.run import Run
from .corruptions import SOURCES, evaluations, means_table
from .table import Cell, Table, TableRow, accuracy_cell

# Scores: clean accuracy, and each attack at each eps under each protocol.

TITLES = {
    "robustness": "PGD as the library robustness computes it (the paper's columns)",
    "strong": "PGD, strong protocol (float64 losses, cross-entropy and margin, any misclassified iterate)",
}


def score_tables(runs: Sequence[Run]) -> list[Table]:
    """A table for each attack and protocol in the runs' scores (one of clean accuracy alone if there is none).

    Then one for each source of corruptions. A branch other than the deployed one has a row of its own.
    """
    titles = [run_title(run) for run in runs]
    labels = [t if titles.count(t) == 1 else f"{t} {run.folder.name}" for t, run in zip(titles, runs, strict=True)]
    labelled = [each for label, run in zip(labels, runs, strict=True) for each in _by_branch(label, run.scores)]
    every = [score for _, scores in labelled for score in scores]
    no_attack = ("clean", "corruptions")
    attacks = {(score["attack"], score.get("protocol")) for score in every if score["attack"] not in no_attack}
    order = sorted(attacks, key=lambda each: (each[0] != "pgd", each[0], str(each[1]))) or [("clean", None)]
    corrupted = {
        label: evaluations(rows, run.folder)
        for name, run in zip(labels, runs, strict=True)
        for label, rows in _by_branch(name, run.corruptions)
    }
    means = [
        means_table(f"Under {words}", {label: [of[source]] for label, of in corrupted.items() if source in of}, source)
        for source, words in SOURCES.items()
        if any(source in of for of in corrupted.values())
    ]
    return [*(_table(attack, protocol, labelled) for attack, protocol in order), *means]


def run_title(run: Run) -> str:
    """``resnet18 (EBN)``, as the paper writes its rows; for a user's model the name of its folder."""
    if not (run.folder / "config.json").exists():
        return run.folder.name
    config = run.config
    return f"{config['model']} ({config['recipe']['class'].rpartition('.')[2]})"


def _by_branch(label: str, scores: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The scores of each branch with a label for it, the deployed one first."""
    by_label: dict[str, list[Row]] = {label: []} if not scores else {}
    for score in sorted(scores, key=lambda score: score.get("branch", "main") != "main"):
        branch = score.get("branch", "main")
        by_label.setdefault(label if branch == "main" else f"{label}, branch {branch}", []).append(score)
    return list(by_label.items())


def _table(attack: str, protocol: str | None, labelled: Sequence[tuple[str, list[Row]]]) -> Table:
    def attacked(scores: Sequence[Row]) -> dict[tuple[str, float], Row]:
        """The latest score at each radius."""
        rows = [row for row in scores if row["attack"] == attack != "clean" and row.get("protocol") == protocol]
        return {(row["norm"], row["eps"]): row for row in rows if row.get("norm") and row.get("eps") is not None}

    at_radius = [attacked(scores) for _, scores in labelled]
    clean = [next((row for row in reversed(scores) if row["attack"] == "clean"), None) for _, scores in labelled]
    radii = sorted({radius for scores in at_radius for radius in scores})
    rows = [
        TableRow(label, [_cell(clean_score), *(_cell(scores.get(radius)) for radius in radii)])
        for (label, _), clean_score, scores in zip(labelled, clean, at_radius, strict=True)
    ]
    clean_scores = [row for row in clean if row]
    caption = "Accuracy in % with the half-width of its 95% interval (Wilson)."
    if attack == FAST:
        caption += " Of fast what it left, an upper bound; in brackets the interval under it and AutoAttack standard."
    if clean_scores:
        caption += f" Basic: {_values(clean_scores, 'n')} test images."
    else:
        caption += " Nothing is measured yet: easybn evaluate."
    if attack_scores := [row for scores in at_radius for row in scores.values()]:
        steps = f"{_values(attack_scores, 'steps')} steps, " if attack == "pgd" else ""
        caption += f" Attacks: {steps}{_values(attack_scores, 'n')} test images"
        caption += f", batch size {_values(attack_scores, 'batch_size')}." if protocol == "robustness" else "."
        if any(row.get("budget") for row in attack_scores):
            caption += " Within a time budget: as many points as there was time for, drawn at random."
    columns = ["Basic", *(f"{norm} {format_eps(eps, norm)}" for norm, eps in radii)]
    return Table(_title(attack, protocol), "Model", columns, rows, caption)


def _title(attack: str, protocol: str | None) -> str:
    if attack == FAST:
        return "fast, audited by AutoAttack standard"
    if attack in ("pgd", "clean"):
        return TITLES.get(str(protocol), str(protocol or attack))
    return f"AutoAttack ({protocol})" if attack == "autoattack" else attack


def _cell(score: Row | None) -> Cell:
    if score is None:
        return Cell()
    if score["attack"] == FAST:
        return fast_cell(score)
    return accuracy_cell(score["correct"], score["n"])


def fast_cell(score: Row) -> Cell:
    """What fast left in percent, an upper bound, and the interval that its audit allows: ``<=59.50 (46.6 .. 67.0)``.

    Where all of it was audited it is no bound. Without an audit there is no interval.
    """
    audit, percent = Audit.of_row(score), 100 * score["correct"] / score["n"]
    text = f"\N{LESS-THAN OR EQUAL TO}{percent:.2f}"
    if audit is None:
        return Cell(f"{text} (not audited)", percent, n=score["n"])
    low, high = (100 * end for end in audit.population_interval(score["n"]))
    return Cell(f"{text if not audit.whole else text[1:]} ({low:.1f} .. {high:.1f})", percent, low, high, n=score["n"])


def _values(scores: Sequence[Row], key: str) -> str:
    return " / ".join(f"{value:,}" for value in sorted({score[key] for score in scores if score.get(key)})) or "unknown"


# Relative distances of hidden states: a table for each perturbation, a row for each layer, a column for each run.

HIDDEN_CAPTION = (
    "In all tables: ||h(x') - h(x)|| / ||h(x)|| in %, mean over test images ± the half-width of its 95% interval. Each "
    "model is given perturbations made for it. In a network that maps hidden states back, the numbers shrink with "
    "depth, and are smaller than in one trained without; noise of the same size is the control."
)
"""How to read the tables; to be printed once."""


def hidden_tables(rows_by_model: Mapping[str, Sequence[Row]]) -> list[Table]:
    """A table for each perturbation and eps.

    Args:
        rows_by_model: the rows of hidden.jsonl; models of different depths are aligned by depth.
    """
    perturbations = dict.fromkeys(_perturbation(row) for rows in rows_by_model.values() for row in rows)
    return [_hidden_table(rows_by_model, perturbation) for perturbation in perturbations]


def _perturbation(row: Row) -> tuple[Any, ...]:
    return row["perturbation"], row["norm"], row["eps"], row["steps"]


def _hidden_table(rows_by_model: Mapping[str, Sequence[Row]], perturbation: tuple[Any, ...]) -> Table:
    columns = {
        model: {_depth(row): row for row in rows if _perturbation(row) == perturbation}
        for model, rows in rows_by_model.items()
    }
    rows = []
    for depth in sorted({depth for column in columns.values() for depth in column}):
        layers = dict.fromkeys(column[depth]["layer"] for column in columns.values() if depth in column)
        rows.append(TableRow(" / ".join(layers), [_distance_cell(column.get(depth)) for column in columns.values()]))
    kind, norm, eps, steps = perturbation
    made = "" if steps is None else f", {steps} step{'s' * (steps > 1)}"
    images = _values([row for column in columns.values() for row in column.values()], "images")
    title = f"{kind}, {norm} {format_eps(eps, norm)}{made}"
    return Table(title, "Layer", list(columns), rows, f"{images} test images")


def _depth(row: Row) -> tuple[bool, int]:
    """Sorts by depth; the logits of all models, at whatever depth, share the last row."""
    return row["depth"] == row["depths"], row["depth"] if row["depth"] < row["depths"] else 0


def _distance_cell(row: Row | None) -> Cell:
    if row is None:
        return Cell()
    percent, high = 100 * row["relative_distance"], 100 * row["high"]
    return Cell(f"{percent:.2f} ±{high - percent:.2f}", percent, 2 * percent - high, high, n=row["images"])
