"""The parts of the documents that come from results/gpu, written anew between marks; without rows they say so.

In docs/performance.md the figures of stage ``speed`` and the paper's full grid in hours; in docs/results.md the runs of
stage ``study``, and the claims against all results, which they are part of.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marked import Parts, write

from gpu.rows import ROOT, read_rows

Row = dict[str, Any]
NONE = "not measured"
KINDS = ("Vanilla", "AdvProp", "EBN", "EBNShared", "FastEBN", "usual AdvProp")
AIMS = [  # the row's item, what of it, the aim
    ("EBN / Vanilla, resnet18, batch 128, bf16, eager", "", "at most 2.6"),
    ("EBN / Vanilla, resnet18, batch 128, bf16, graph", "", "at most 2.6"),
    ("EBN / usual AdvProp, resnet18, batch 128, bf16, eager", "", "at most 0.75"),
    ("EBN / usual AdvProp, resnet18, batch 128, bf16, graph", "", "at most 0.75"),
    ("Vanilla, resnet50, batch 512, bf16, eager", ": share of the measured rate", "at least 0.35"),
    ("training loop, EBN, batch 128, device busy", "", "at least 0.95"),
    ("training loop, EBN, batch 128, waits in a step", "", "0"),
]
OTHERS = ("training loop, free network", "AutoAttack", "preset fast", "matmul")
GRID = [  # of the paper's tables: data set, its training images, network
    (data, images, model)
    for data, images in (("fashion-mnist", 60_000), ("cifar10", 50_000))
    for model in ("resnet18", "resnet50")
]
EPOCHS, SEEDS, BATCH = 1000, 3, 128


def main(argv: list[str] | None = None) -> int:
    return write(PARTS, "bench/gpu/figures", "What results/gpu says, for the documents.", argv)


def speed(results: Path) -> str:
    """Of stage ``speed``: the aims, a table of images a second a card, everything else, and the grid in hours."""
    rows = read_rows(results / "gpu" / "speed.jsonl")
    by_card: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_card.setdefault(tuple(str(row[name]) for name in ("card", "driver", "torch", "commit")), []).append(row)
    parts = []
    for (card, driver, torch, commit), of in by_card.items():
        dates = sorted({row["date"][:10] for row in of})
        at = f"{card}, driver {driver}, torch {torch}, {' and '.join(dates)}, commit {commit[:12]}"
        parts += [f"**{at}**", _aims(of), _steps(of), _others(of), _grid(of)]
    return "\n\n".join(filter(None, parts or ["Nothing yet: no GPU has run it.", _aims([]), _grid([])]))


def _aims(rows: Sequence[Row]) -> str:
    measured = {row["item"]: row for row in rows}

    def figure(item: str) -> str:
        row = measured.get(item, {})
        return _number(row.get("share" if item.startswith("Vanilla") else "value"))

    lines = [[item + of, aim, figure(item)] for item, of, aim in AIMS]
    return _table(["", "aim", "measured"], lines, "lrr")


def _steps(rows: Sequence[Row]) -> str:
    """A line for each network, batch, precision and way, with images a second of each kind of step."""
    steps = {(*_setting(row), row["kind"]): row for row in rows if row["unit"] == "images/s" and "kind" in row}
    lines = []
    for setting in dict.fromkeys(key[:-1] for key in steps):
        of = {kind: steps.get((*setting, kind), {}).get("value") for kind in KINDS}
        vanilla = steps.get((*setting, "Vanilla"), {})
        ratios = [_ratio(of[b], of["EBN"]) for b in ("Vanilla", "usual AdvProp")]
        model, batch, precision, how = setting
        cells = [_whole(of[kind]) for kind in KINDS]
        lines.append([f"{model}, {batch}, {precision}, {how}", *cells, *ratios, _number(vanilla.get("share"))])
    head = ["images/s", *KINDS, "time of EBN / Vanilla", "/ usual AdvProp", "share of the rate (Vanilla)"]
    return _table(head, lines, "l" + "r" * (len(head) - 1)) if lines else ""


def _setting(row: Row) -> tuple[str, int, str, str]:
    return row["model"], row["batch"], "TF32" if row["precision"] == "32" else row["precision"], row["how"]


def _others(rows: Sequence[Row]) -> str:
    lines = [
        [row["item"], _whole(row["value"]) if row["unit"].endswith("/s") else _number(row["value"]), row["unit"]]
        for row in rows
        if row["item"].startswith(OTHERS)
    ]
    return _table(["", "measured", ""], lines, "lrl") if lines else ""


def _grid(rows: Sequence[Row]) -> str:
    """Hours of the training of the paper's 36 runs, one after the other, by images a second of their steps."""
    rates = {(*_setting(row), row["kind"]): row["value"] for row in rows if row["unit"] == "images/s" and "kind" in row}
    lines = []
    for precision, how in (("TF32", "eager"), ("TF32", "graph"), ("bf16", "eager"), ("bf16", "graph")):
        each = {model: [rates.get((model, BATCH, precision, how, kind)) for kind in KINDS[:3]] for *_, model in GRID}
        hours = {
            model: sum(images * EPOCHS * SEEDS / rate / 3600 for _, images, of in GRID if of == model for rate in found)
            for model, found in each.items()
            if all(found)
        }
        total = sum(hours.values()) if len(hours) == len(each) else None
        cells = [NONE if value is None else f"{value:,.0f} h" for value in (*map(hours.get, each), total)]
        lines.append([f"{precision}, {how}", *cells])
    return _table(["the paper's full grid, training", "ResNet-18", "ResNet-50", "all 36 runs"], lines, "lrrr")


def study(results: Path) -> str:
    """Of stage ``study``: at what scale, the tables over seeds, and the claims against these runs alone."""
    runs = sorted((results / "gpu").glob("*/config.json"))
    if not runs:
        return (
            "## gpu: the paper's own network, trained\n\nNot measured: no GPU has run it yet. `bench/gpu/run study` "
            "trains ResNet-18 by vanilla, AdvProp and EBN."
        )
    command = "report results/gpu --tables markdown"
    claims = "claims results/gpu --format markdown"
    return "\n\n".join(
        [
            "## gpu: the paper's own network, trained",
            f"{scale(runs)} Commands: `bench/gpu/run study`, `bench/gpu/collect`, and",
            f"```bash\neasybn {command}\neasybn {claims}\n```",
            _said(command, results),
            "**The claims against these runs alone**: what changes with the network and the epochs.",
            _said(claims, results),
        ]
    )


def scale(configs: Sequence[Path]) -> str:
    """In a sentence: networks, epochs, precisions, seeds and cards of the runs."""
    told: dict[str, set[str]] = {}
    seeds, cards = set(), set()
    for path in configs:
        experiment = json.loads(path.read_text())["experiment"]
        training, data = experiment["training"], path.parent.name.rsplit("-", 2)[0]
        words = f"{experiment['model']}, {training['epochs']} epochs, batch {training['batch_size']}"
        told.setdefault(data, set()).add(f"{words}, {training.get('precision', '32')}")
        seeds.add(training["seed"])
        sessions = json.loads((path.parent / "environment.json").read_text())
        cards |= {f"{each.get('cuda')} (torch {each['packages'].get('torch')})" for each in sessions}
    of = "; ".join(f"{data}: {' and '.join(sorted(each))}" for data, each in sorted(told.items()))
    return f"Scale: {of}; seeds {', '.join(map(str, sorted(seeds)))}; on {' and '.join(sorted(cards))}."


def claims(results: Path) -> str:
    """The claims against all rows."""
    return _said("claims results --format markdown", results)


def _said(command: str, results: Path) -> str:
    """What easybn prints, run beside ``results``."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    words = [sys.executable, "-m", "easybn", *command.split()]
    done = subprocess.run(words, cwd=results.parent, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"easybn {command}: {done.stderr.strip()}")
    return done.stdout.strip()


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], aligned: str) -> str:
    rules = ["---:" if side == "r" else "---" for side in aligned]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rules, *lines))


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _whole(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _ratio(above: float | None, below: float | None) -> str:
    return NONE if above is None or below is None else f"{above / below:.2f}"


PARTS: Parts = {
    ("performance.md", "gpu"): speed,
    ("notes/results.md", "gpu"): study,
    ("results.md", "claims"): claims,
}
