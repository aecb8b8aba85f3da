"""Accuracy under common corruptions, as tables: kinds by severities of one recipe, and recipes side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.corruptions import CORRUPTIONS, GROUPS, SEVERITIES
from ..evaluation.corruptions import CorruptionEvaluation, verdicts_in
from ..json_files import Row
from ..stats import aggregate
from .table import Cell, Table, TableRow

SOURCES = {"generated": "corruptions made here", "published": "published corruptions"}
DRAWN = "The texture of frost* is drawn here; the published corruption blends photographs."
OF_POINTS = (
    "With the half-width of the 95% interval for the points drawn: all kinds and severities share the points, and a "
    "mean counts each point once."
)
OF_SEEDS = "Mean over {seeds} seeds with the half-width of its 95% interval (Student)."


def evaluations(rows: Sequence[Row], where: Path) -> dict[str, CorruptionEvaluation]:
    """By source the latest evaluation that has all kinds and severities.

    Args:
        rows: of corruptions.jsonl, of one branch.
        where: the folder of that file.

    Raises:
        Damaged: a row whose verdicts are damaged.
    """
    found: dict[tuple[str, str, int], dict[tuple[str, int], Row]] = {}
    for row in rows:
        same = found.setdefault((row["source"], row["points"], row["points_seed"]), {})
        same[row["corruption"], row["severity"]] = row
    complete = {}
    every = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]
    for (source, _, _), by_corruption in found.items():
        if by_corruption.keys() >= {*every}:
            right = verdicts_in([by_corruption[each] for each in every], str(where / "corruptions.jsonl"))
            complete[source] = CorruptionEvaluation(None, right)
    return complete


def kinds_table(name: str, seeds: Sequence[CorruptionEvaluation], source: str) -> Table:
    """A row for each kind, a column for each severity, and the means of both.

    Args:
        name: of the model, or of the recipe.
        seeds: of one or several seeds.
    """
    rows = []
    for kind in (*CORRUPTIONS, None):
        cells = [_cell(seeds, kind, severity) for severity in SEVERITIES]
        cells.append(_cell(seeds, kind, None, interval=True))
        rows.append(TableRow(kind_label(kind, source) if kind else "mean", cells))
    n = _points(seeds)
    about = OF_POINTS if len(seeds) == 1 else OF_SEEDS.format(seeds=len(seeds))
    caption = f"Accuracy in % on {n:,} points, by kind and severity. {about}{_drawn(source)}"
    columns = [*map(str, SEVERITIES), "mean"]
    return Table(f"{name}: {SOURCES[source]}", "Corruption", columns, rows, caption)


def means_table(title: str, models: Mapping[str, Sequence[CorruptionEvaluation]], source: str) -> Table:
    """A row for each model or recipe: mCA, and the means over the kinds of noise, blur, weather and digital changes.

    Args:
        title: of the table.
        models: evaluations of one or several seeds by label.
    """
    rows = [
        TableRow(label, [_cell(seeds, kind, None, interval=True) for kind in (None, *GROUPS)], recipe=label)
        for label, seeds in models.items()
    ]
    many = sorted({len(seeds) for seeds in models.values()})
    counts = " / ".join(f"{n:,}" for n in sorted({_points(seeds) for seeds in models.values()}))
    about = (
        OF_POINTS if many == [1] else OF_SEEDS.format(seeds=" to ".join(map(str, dict.fromkeys((many[0], many[-1])))))
    )
    mean = "Mean accuracy in % over five severities of all kinds (mCA), and of four groups of kinds"
    return Table(title, "Model", ["mCA", *GROUPS], rows, f"{mean}, on {counts} points. {about}{_drawn(source)}")


def side_by_side(title: str, models: Mapping[str, Sequence[CorruptionEvaluation]], source: str) -> Table:
    """A row for each kind, a column for each model or recipe: means over the severities; arguments as of the others."""
    rows = [
        TableRow(kind_label(kind, source) if kind else "mCA", [_cell(seeds, kind, None) for seeds in models.values()])
        for kind in (*CORRUPTIONS, None)
    ]
    caption = f"Mean accuracy in % over five severities.{_drawn(source)}"
    return Table(title, "Corruption", list(models), rows, caption)


def kind_label(kind: str, source: str) -> str:
    """The name of a kind, with a star if it is not the published definition."""
    return f"{kind}*" if kind == "frost" and source == "generated" else kind


def _drawn(source: str) -> str:
    return f" {DRAWN}" if source == "generated" else ""


def _points(seeds: Sequence[CorruptionEvaluation]) -> int:
    return len(next(iter(seeds[0].right.values())))


def _cell(
    seeds: Sequence[CorruptionEvaluation], kind: str | None, severity: int | None, interval: bool = False
) -> Cell:
    """A mean over seeds in percent; of one seed with the interval for the points.

    Args:
        interval: show it.
    """
    accuracies, n = [each.accuracy(kind, severity) for each in seeds], _points(seeds)
    mean, half, count = aggregate(accuracies, resolution=1 / (n * len(seeds[0].right)))
    low, high = seeds[0].interval(kind, severity) if half is None else (mean - half, mean + half)
    text = f"{100 * mean:.1f}" + (f" ±{50 * (high - low):.1f}" if interval else "")
    return Cell(text, 100 * mean, 100 * low, 100 * high, count, n, heat=mean)
