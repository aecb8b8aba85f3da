"""What the paper claims: its claims with their verdicts, and the stacked images of its figures 1 and 2."""

import base64
from collections.abc import Sequence

from markupsafe import Markup

from ...files import read_bytes
from ...json_files import Row
from ...paper.claims import RULES, Evidence
from ...paper.stacked import stacked_caption, stacked_tables
from ...paper.stacked_images import Condition
from ...paper.tables import difference, evidence_table, support
from ...stats import aggregate
from ...tables.rows import StackedRows
from ..charts import Bar, bars_chart, interval_mark
from ..elements import Block, Content, Figure, Key, Material, section

# The claims, each with its verdict and the comparisons behind it.

SIGNS = {"holds": "✓", "does not hold": "✕", "undecided at this scale": "○", "not measured": "∅"}


@section("claims", "Claims of the paper", order=0)
def claims(material: Material) -> Content:
    cards = []
    for judged in material.judged:
        first = judged.decisive
        here = support(judged)
        cards.append(
            {
                "name": judged.claim.name,
                "says": judged.claim.says,
                "where": judged.claim.where,
                "here": here[:1].upper() + here[1:],
                "sign": SIGNS[judged.verdict],
                "verdict": judged.verdict,
                "kind": judged.verdict.split()[0],
                "first": first.what if first else "",
                "difference": difference(first).text if first else "",
                "unit": "points" if first and first.unit == "points" else "",
            }
        )
    blocks = [Block("claims", content={"cards": cards}, caption=RULES)]
    if every := [evidence for judged in material.judged for evidence in judged.evidence]:
        table = evidence_table(material.judged)
        marks = _marks(every, material)
        blocks.append(Block("table", table.title, table=table, marks=marks, folded=f"All {len(every)} comparisons"))
    return Content(blocks)


def _marks(every: Sequence[Evidence], material: Material) -> list[Markup]:
    """Each comparison's interval, on one axis for points and another for plain numbers."""
    spans = {"points": 1e-9, "": 1e-9}
    for evidence in every:
        if evidence.test is not None:
            reach = max(map(abs, evidence.interval or [evidence.scale * evidence.test.mean]))
            spans[evidence.unit] = max(spans[evidence.unit], min(reach, 100.0))
    marks = []
    for evidence in every:
        if evidence.test is None:
            marks.append(Markup(""))
            continue
        low, high = evidence.interval or (None, None)
        colour = material.colours.css_class(evidence.about)
        marks.append(interval_mark(evidence.scale * evidence.test.mean, low, high, spans[evidence.unit], colour))
    return marks


# Figures 1 and 2: bars for each half, and the pictures.

MOST = 900_000  # bytes of pictures on the page
HALVES = [Key("the copy randomised", "half-copy"), Key("the original randomised", "half-original")]
KEY = "Accuracy, %. Swapped: with the same half of an image of the other class. Blank: the mean of the training images."
WAYS = {
    "noise": "noise in one half",
    "swap": "one half swapped",
    "blank": "one half blank",
}


@section(
    "stacked",
    "Stacked images",
    order=90,
    lead="A fresh network learns to tell two classes apart on images stacked on their easy copies; then one half is "
    "randomised. If it reads the easy half, as the paper says, accuracy is lost with the copy and kept without the "
    "original. The untouched and adversarial copies are controls.",
)
def stacked(material: Material) -> Content:
    blocks: list[Block] = []
    bytes_left = MOST
    for folder in material.rows.stacked:
        rows = folder.rows
        title = f"{rows[0]['data']}, {' against '.join(rows[0]['classes'])}"
        figures = [Figure(words, bars_chart(f"{title}: {words}", _bars(rows, how))) for how, words in WAYS.items()]
        blocks.append(Block("figures", title, KEY, figures=figures, legend=HALVES))
        for table in stacked_tables(rows):
            blocks.append(Block("table", table.title, stacked_caption(rows), table=table, folded=table.title))
        pictures, used = _pictures(folder, bytes_left)
        bytes_left -= used
        if pictures:
            blocks.append(Block("pictures", f"{title}: pictures", content={"pictures": pictures}))
    missing = "" if blocks else "No stacked experiment in this folder: easybn stacked --out FOLDER/stacked-DATA."
    return Content(blocks, missing)


def _bars(rows: Sequence[Row], how: str) -> list[tuple[str, list[Bar]]]:
    """For each condition the mean accuracy with either half randomised."""
    groups = []
    for condition in dict.fromkeys(Condition.of(row) for row in rows):
        bars = []
        for half in ("copy", "original"):
            key = (condition, half, how)
            values = [row["accuracy"] for row in rows if (Condition.of(row), row["half"], row["how"]) == key]
            if values:
                mean, width, _ = aggregate(values)
                ends = (None, None) if width is None else (max(0.0, mean - width), min(1.0, mean + width))
                bars.append(Bar(f"{half} randomised", mean, f"half-{half}", *ends))
        groups.append((str(condition), bars))
    return groups


def _pictures(folder: StackedRows, most: int) -> tuple[list[dict[str, str]], int]:
    """One of each condition, the easy ones first, as long as there is room; and how many bytes they take."""
    pictures, used = [], 0
    rows = sorted((row for row in folder.rows if row.get("picture")), key=lambda row: str(row["copy"]) != "easy")
    for name, row in {row["picture"]: row for row in rows}.items():
        path = (folder.folder / name).resolve()
        inside = path.is_relative_to(folder.folder.resolve()) and path.suffix == ".png"
        if not inside or not path.is_file() or used + path.stat().st_size > most:
            continue
        data = read_bytes(path)
        used += len(data)
        encoded = base64.b64encode(data).decode()
        pictures.append({"png": f"data:image/png;base64,{encoded}", "text": str(Condition.of(row))})
    return pictures, used
