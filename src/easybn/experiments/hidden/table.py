"""Relative distances of hidden states: a table a perturbation, with a row a layer and a column a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...perturb.eps import format_eps
from ..table import Block

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
