"""The paper's figures 1 and 2: bars for either half, and the pictures."""

import base64
from collections.abc import Sequence

from ...files import read_bytes
from ...json_files import Row
from ...paper.stacked import stacked_caption, stacked_tables
from ...paper.stacked_images import Condition
from ...stats import aggregate
from ...tables.rows import StackedRows
from ..charts import Bar, bars_chart
from ..page import Block, Figure, Key, Material, Section

MOST = 900_000  # bytes of pictures on the page
HALVES = [Key("the copy randomised", "half-copy"), Key("the original randomised", "half-original")]
KEY = "Accuracy, %. Swapped: with the same half of an image of the other class. Blank: the mean of the training images."
MEANS = {
    "noise": "noise in one half",
    "swap": "one half swapped",
    "blank": "one half blank",
}


def section(material: Material) -> Section:
    blocks: list[Block] = []
    spent = 0
    for folder in material.rows.stacked:
        title = f"{folder.rows[0]['data']}, {' against '.join(folder.rows[0]['classes'])}"
        figures = [
            Figure(words, bars_chart(f"{title}: {words}", _groups(folder.rows, how))) for how, words in MEANS.items()
        ]
        blocks.append(Block("figures", title, KEY, figures=figures, legend=HALVES))
        for table in stacked_tables(folder.rows):
            blocks.append(Block("table", table.title, stacked_caption(folder.rows), table=table, folded=table.title))
        pictures, used = _pictures(folder, MOST - spent)
        spent += used
        if pictures:
            blocks.append(Block("pictures", f"{title}: pictures", content={"pictures": pictures}))
    missing = "" if blocks else "No stacked experiment in this folder: easybn stacked --out FOLDER/stacked-DATA."
    lead = (
        "A fresh network learns to tell two classes apart on images stacked on their easy copies; then one half is "
        "randomised. If it reads the easy half, as the paper says, accuracy is lost with the copy and kept without the "
        "original. The untouched and adversarial copies are controls."
    )
    return Section("stacked", "Stacked images", lead if blocks else "", blocks, missing)


def _groups(rows: Sequence[Row], how: str) -> list[tuple[str, list[Bar]]]:
    groups = []
    for condition in dict.fromkeys(Condition.of(row) for row in rows):
        ours = [row for row in rows if Condition.of(row) == condition]
        bars = []
        for half in ("copy", "original"):
            values = [row["accuracy"] for row in ours if (row["half"], row["how"]) == (half, how)]
            if values:
                found = aggregate(values)
                wide = found.half_width
                ends = (None, None) if wide is None else (max(0.0, found.mean - wide), min(1.0, found.mean + wide))
                bars.append(Bar(f"{half} randomised", found.mean, f"half-{half}", *ends))
        groups.append((str(condition), bars))
    return groups


def _pictures(folder: StackedRows, most: int) -> tuple[list[dict[str, str]], int]:
    """Of each condition, the easy ones first, as long as there is room."""
    out, used = [], 0
    rows = sorted((row for row in folder.rows if row.get("picture")), key=lambda row: str(row["copy"]) != "easy")
    for name, row in {row["picture"]: row for row in rows}.items():
        path = (folder.folder / name).resolve()
        inside = path.is_relative_to(folder.folder.resolve()) and path.suffix == ".png"
        if not inside or not path.is_file() or used + path.stat().st_size > most:
            continue
        data = read_bytes(path)
        used += len(data)
        words = str(Condition.of(row))
        out.append({"png": "data:image/png;base64," + base64.b64encode(data).decode(), "text": words})
    return out, used
