"""The tables of docs/paper.md in Markdown, from the rows of bench/paper_figures.py.

python bench/paper_tables.py
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper_figures import BATCHES, CONTROL, END, FACTORS, PAPER, POINTS, QUERIES, RADII, TRAINED, Rows

AGAINST = {
    "ebn": "advprop",
    "advprop-ebn": "advprop",
    "port-label": "port",
    "port-original": "port",
    "one-norm-label": "one-norm",
}
"""Of the runs of examples/paper_readings.yaml: which is the EBN of which AdvProp."""


def readings(out: Path) -> list[list[str]]:
    """Each reading's columns, and how far it is from the AdvProp that it would be compared with."""
    rows = Rows(out / "readings.jsonl").rows
    columns = {
        "Basic": ("clean", None),
        **{f"l2 {eps:g} strong": ("pgd", eps) for eps in RADII},
        "linf": ("fast", 8 / 255),
    }
    table = [["run", *columns, "minus"]]
    percents: dict[str, list[float]] = {}
    for run in dict.fromkeys(row["run"] for row in rows):
        values = []
        for attack, eps in columns.values():
            key = {"run": run, "attack": attack, "eps": eps}
            (row,) = (row for row in rows if key.items() <= row.items() and row["protocol"] != "robustness")
            values.append(100 * row["correct"] / row["n"])
        percents[run.rpartition("-")[0]] = values
    for run, values in percents.items():
        table.append([run, *(f"{value:.1f}" for value in values), ""])
        if other := AGAINST.get(run):
            table.append(["", *(f"{a - b:+.1f}" for a, b in zip(values, percents[other], strict=True)), other])
    return table


def title(network: str) -> str:
    """``vanilla-0.0001-0-1e-06`` in words."""
    recipe, decay, _, reached = network.split("-", 3)
    words = {TRAINED: "the paper's steps", END: "end"}.get(reached, f"loss {reached}")
    return f"{recipe}, {words}" + ("" if decay == "0" else f", weight decay {decay}")


def tables(out: Path) -> str:
    """The tables of docs/paper.md in Markdown."""
    trained = {f"{row['cell']}-{row['reached']}": row for row in Rows(out / "trainings.jsonl").rows}
    rows = Rows(out / "measured.jsonl").rows
    about = {row["network"]: row for row in rows if row["what"] == "margins"}
    networks = [name for name in trained if name in about]
    final = [name for name in networks if name.endswith(f"-{TRAINED}")]

    def left(network: str, attack: str, **key: Any) -> str:
        wanted = {"network": network, "attack": attack, **key}
        found = [row["robust"] for row in rows if wanted.items() <= row.items()]
        return " / ".join(f"{100 * robust / POINTS:.0f}" for robust in found) or "not measured"

    saturation = [["network", "loss", "steps", "clean", "margin", "stalled", "library, batch 128", "strong"]]
    batches = [["network", *(f"batch {batch}" for batch in BATCHES)]]
    uses = ("autoattack", "a tenth of eps", *(f"square {queries}" for queries in QUERIES), "transfer")
    attacks = [["network", "norm", "AutoAttack", *uses[1:]]]
    for name in networks:
        row, network = trained[name], about[name]
        low, _, middle, _, high = network["margins"]
        clean, stalled = 100 * network["clean"] / network["n"], 100 * network["stalled"]["128"]
        saturation.append(
            [title(name), f"{row['losses']['main']:.0e}", f"{row['steps']:,}", f"{clean:.1f}",
             f"{middle:.0f} ({low:.0f} .. {high:.0f})", f"{stalled:.1f}",
             left(name, "library 128", what="columns"), left(name, "strong", what="columns")]
        )  # fmt: skip
    for name in final:
        batches.append([title(name), *(left(name, f"library {batch}", what="columns") for batch in BATCHES)])
    for name in dict.fromkeys(row["network"] for row in rows if row["what"] == "autoattack"):
        called = title(name) if name in trained else name
        for norm in PAPER:
            attacks.append([called, norm, *(left(name, attack, norm=norm) for attack in uses)])
    control = [["logits", "library, batch 128", "strong"]]
    for what in ("columns", *(f"scaled {factor}" for factor in FACTORS)):
        times = "as they are" if what == "columns" else what.replace("scaled", "times")
        control.append([times, left(CONTROL, "library 128", what=what), left(CONTROL, "strong", what=what)])
    return "\n\n".join(map(_markdown, (saturation, batches, control, attacks, readings(out))))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/paper-figures"), help="rows")
    print(tables(parser.parse_args().out))
