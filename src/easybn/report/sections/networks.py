"""What happens inside the networks: their branches and hidden states, what they see, and how sure they are."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...files import read_bytes
from ...json_files import Row
from ...paper.claims import kind_of, kind_text
from ...stats import aggregate
from ...tables.rows import RunRows
from ..charts import Chart, Point, Series, histogram
from ..elements import BRANCH_DASHES, Block, Content, Figure, Key, Material, first_run, legend, section

# A gallery of test images, what was added to make them easy and adversarial, and how sure the model is of each.

GALLERY = ("image", "easy change", "easy copy", "adversarial change", "adversarial copy")
SHEET = "gallery.png"
MOST_PICTURES = 2_000_000  # characters of pictures on the page
MOST_PIXELS = 2**24


@section(
    "gallery",
    "Gallery",
    order=50,
    lead="The first test images that the model gets right, as the same network sees them easier and harder.",
)
def gallery(material: Material) -> Content:
    blocks: list[Block] = []
    used = left_out = 0
    for setting in material.settings:
        for recipe in setting.recipes:
            run = first_run(recipe)
            stored = run.summary.get("gallery")
            if not stored or not (run.folder / SHEET).exists():
                continue
            if used > MOST_PICTURES:
                left_out += 1
                continue
            rows = _gallery_rows(run, stored)
            used += sum(len(tile["png"]) for row in rows for tile in row)
            title = f"{setting.title}: {recipe.label}"
            caption = (
                f"{run.name}, the deployed model. Copies: {stored['how']}. Changes are shown around grey, amplified by "
                "the factor under them."
            )
            blocks.append(Block("gallery", title, caption, content={"rows": rows}, folded=title if blocks else ""))
    missing = "" if blocks else "No run has a gallery: easybn summarise RUNS makes it, where the models are."
    if left_out:
        missing = f"{left_out} more galleries are left out to keep the page small: a report of fewer runs shows them."
    return Content(blocks, missing)


def open_sheet(path: Path) -> Image.Image:
    """A sheet of pictures; ValueError if it has more pixels than any of ours."""
    with Image.open(io.BytesIO(read_bytes(path, MOST_PIXELS)), formats=["PNG"]) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{path} has {opened.width} x {opened.height} pixels: no gallery of ours")
        return opened.convert(opened.mode if opened.mode in ("L", "RGB") else "RGB")


def _gallery_rows(run: RunRows, stored: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """A tile with its caption for each picture of the sheet and each change between two."""
    sheet = open_sheet(run.folder / SHEET)
    height, width = stored["size"]
    rows = []
    for i, item in enumerate(stored["images"]):
        tiles = [sheet.crop((j * width, i * height, (j + 1) * width, (i + 1) * height)) for j in range(3)]
        row = [_picture(tiles[0], GALLERY[0], item, "original")]
        for j, name in ((1, "easy"), (2, "adversarial")):
            row += [_change(tiles[0], tiles[j], GALLERY[2 * j - 1]), _picture(tiles[j], GALLERY[2 * j], item, name)]
        rows.append(row)
    return rows


def _picture(tile: Image.Image, column: str, item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A picture, and the class and confidence that the model gives it."""
    answer = item[name]
    text = f"{answer['class']} {100 * answer['confidence']:.1f}%"
    alt = f"a test image of {item['label']}; the model says {text}"
    wrong = answer["class"] != item["label"]
    return {"png": data_uri(tile), "column": column, "text": text, "wrong": wrong, "alt": alt}


def _change(original: Image.Image, copy: Image.Image, column: str) -> dict[str, Any]:
    """The difference around grey, amplified by the largest integer factor that fits between black and white."""
    difference = np.asarray(copy, np.int16) - np.asarray(original, np.int16)
    factor = max(1, 127 // max(1, int(np.abs(difference).max())))
    tile = Image.fromarray(np.clip(128 + factor * difference, 0, 255).astype(np.uint8))
    text = f"\N{MULTIPLICATION SIGN}{factor}"
    return {"png": data_uri(tile), "column": column, "text": text, "wrong": False, "alt": f"amplified {factor} times"}


def data_uri(tile: Image.Image) -> str:
    """A picture for the page."""
    buffer = io.BytesIO()
    tile.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# Layer by layer: how far the branches have moved apart, and how far perturbed images' hidden states lie away.

DEPTH = "layer, from the input on"
MEASURES = {
    "symmetric_kl": "running statistics (KL, nats)",
    "relative_weight": "gamma (relative)",
    "relative_bias": "beta (relative)",
}


@section(
    "branches",
    "How far the branches have moved apart",
    order=60,
    lead="The distance of two branches in each norm layer: of their running statistics (symmetric KL divergence of a "
    "Gaussian a channel, in nats, logarithmic), and of gamma and beta relative to their size.",
)
def branches(material: Material) -> Content:
    blocks = []
    for setting in material.settings:
        runs_by_label = {each.label: [run.branches for run in each.runs.values()] for each in setting.recipes}
        every = [row for runs in runs_by_label.values() for run in runs for row in run]
        figures = []
        keys: dict[str, Key] = {}
        for measure in dict.fromkeys(str(row["measure"]) for row in every):
            curves = []
            for label, runs in runs_by_label.items():
                measured = [[row for row in run if row["measure"] == measure] for run in runs if run]
                pairs = list(dict.fromkeys(_pair(row) for run in measured for row in run))
                for i, pair in enumerate(pairs):
                    points = _by_depth([[row for row in run if _pair(row) == pair] for run in measured], "value")
                    dash = BRANCH_DASHES[i % len(BRANCH_DASHES)] if len(pairs) > 1 else material.colours.dash(label)
                    name, colour = f"{label}: {pair}", material.colours.css_class(label)
                    curves.append(Series(name, points, colour, dash))
                    keys[name] = Key(name, colour, dash)
            title = MEASURES.get(measure, measure)
            log = all(point.y > 0 for curve in curves for point in curve.points) and measure == "symmetric_kl"
            figures.append(Figure(title, Chart(f"{setting.title}: {title}", DEPTH, "distance", curves, log=log).svg()))
        if figures:
            blocks.append(Block("figures", setting.title, figures=figures, legend=list(keys.values())))
    missing = "" if blocks else "No run has a branches.jsonl: easybn hidden RUNS writes it, of runs with a checkpoint."
    return Content(blocks, missing)


def _pair(row: Row) -> str:
    return f"{row['branch_a']} and {row['branch_b']}"


@section(
    "hidden",
    "Hidden states",
    order=70,
    lead="The distance of a perturbed image's state from that of the clean image, relative to the clean one's size. If "
    "a network maps states back (C6), its curve falls towards the deeper layers, and lies below the others there.",
)
def hidden_states(material: Material) -> Content:
    blocks = []
    colours = material.colours
    for setting in material.settings:
        every = [row for recipe in setting.recipes for run in recipe.runs.values() for row in run.hidden]
        figures = []
        for kind in sorted({kind_of(row) for row in every}, key=lambda kind: (kind[1:3], kind[0])):
            curves = []
            for recipe in setting.recipes:
                runs = [[row for row in run.hidden if kind_of(row) == kind] for run in recipe.runs.values()]
                if points := _by_depth([rows for rows in runs if rows], "relative_distance"):
                    curves.append(Series(recipe.label, points, colours.css_class(recipe), colours.dash(recipe)))
            depths = sorted({point.x for curve in curves for point in curve.points})
            ticks = [(depth, _depth_name(every, depth)) for depth in depths]
            title = f"{setting.title}: {kind_text(kind)}"
            chart = Chart(title, DEPTH, "relative distance, %", curves, x_ticks=ticks, percent=True)
            figures.append(Figure(kind_text(kind), chart.svg()))
        if figures:
            blocks.append(Block("figures", setting.title, figures=figures, legend=legend(setting, colours)))
    return Content(blocks, "" if blocks else "No run has a hidden.jsonl: easybn hidden RUNS writes it.")


def _by_depth(runs: Sequence[Sequence[Row]], value: str) -> list[Point]:
    """The mean over runs at each depth, with its interval; of a single run the row's own."""
    points = []
    for depth in sorted({float(row["depth"]) for run in runs for row in run}):
        rows = [row for run in runs for row in run if float(row["depth"]) == depth]
        mean, half, _ = aggregate([float(row[value]) for row in rows])
        if half is not None and len(runs) > 1:
            points.append(Point(depth, mean, mean - half, mean + half))
        else:
            points.append(Point(depth, mean, rows[0].get("low"), rows[0].get("high")))
    return points


def _depth_name(rows: Sequence[Row], depth: float) -> str:
    """The number of a layer, and names for the first and last."""
    if depth == 0:
        return "image"
    last = any(row["depth"] == depth == row.get("depths") for row in rows)
    return "logits" if last else f"{depth:g}"


# How sure the models are when they are right, and when they are wrong.


@section(
    "confidences",
    "Confidence",
    order=80,
    lead="The confidence in the class that the model names, over all clean test images: above the line where it is "
    "right, below where it is wrong, each side in shares of its own images.",
)
def confidences(material: Material) -> Content:
    blocks = []
    for setting in material.settings:
        figures = []
        for recipe in setting.recipes:
            stored = [run.summary["confidence"] for run in recipe.runs.values() if run.summary.get("confidence")]
            if not stored:
                continue
            right, wrong = ([sum(bins) for bins in zip(*(one[side] for one in stored), strict=True)]
                            for side in ("right", "wrong"))  # fmt: skip
            above, below = ([count / max(sum(side), 1) for count in side] for side in (right, wrong))
            colour = material.colours.css_class(recipe)
            svg = histogram(f"{setting.title}: {recipe.label}", above, below, colour)
            caption = f"{sum(right):,} right, {sum(wrong):,} wrong; {confidence_gap(right, wrong)}"
            figures.append(Figure(recipe.label, svg, caption, "small"))
        if figures:
            blocks.append(Block("figures", setting.title, figures=figures))
    return Content(blocks, "" if blocks else "No run has a summary.json: easybn summarise RUNS writes it.")


def confidence_gap(right: Sequence[int], wrong: Sequence[int]) -> str:
    """Mean confidence, by the middles of the bins, beside accuracy."""
    bins, n = len(right), sum(right) + sum(wrong)
    if not n:
        return "no images"
    sure = sum((i + 0.5) / bins * (a + b) for i, (a, b) in enumerate(zip(right, wrong, strict=True))) / n
    return f"{100 * sure:.1f}% sure on average, {100 * sum(right) / n:.1f}% right"
