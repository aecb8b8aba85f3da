"""The census as a table: easy images and easy copies of each class, mean over seeds with its 95% interval."""

from collections.abc import Sequence
from typing import Any

from ...evaluation.over_seeds import over_seeds
from ...perturb.eps import format_eps
from ..table import Block

COLUMNS = ["images", "easy", "easy, %", "easy copies, %"]


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
    return Block(title, COLUMNS, body, caption(rows, pairs), head="Class")


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
    easy = over_seeds([row["easy"] for row in rows])
    if not n:
        return ["0", "0", "", ""]
    shares = [over_seeds([100 * row[name] / n for row in rows]) for name in ("easy", "copies_easy")]
    cells = [
        f"{found.mean:.1f}" + ("" if found.half_width is None else f" ±{found.half_width:.1f}") for found in shares
    ]
    return [f"{n:,}", f"{easy.mean:,.0f}", *cells]


def _percent(rows: Sequence[dict[str, Any]], key: str, form: str = ".1f") -> str:
    found = over_seeds([100 * row[key] for row in rows])
    return f"{found.mean:{form}}" + ("" if found.half_width is None else f" ±{found.half_width:.1f}")


def _mean(pairs: Sequence[dict[str, Any]], key: str) -> str:
    values = [pair[key] for pair in pairs if pair[key] is not None]
    return f"{sum(values) / len(values):.2f}" if values else "undefined"
