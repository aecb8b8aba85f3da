"""Test images, what was added to make them easy and adversarial, and how sure the model is of each."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ...files import read_bytes
from ...tables.rows import RunRows
from ..page import Block, Material, Section, first_run

COLUMNS = ("image", "easy change", "easy copy", "adversarial change", "adversarial copy")
SHEET = "gallery.png"
MOST = 2_000_000  # characters of pictures on the page


def section(material: Material) -> Section:
    blocks: list[Block] = []
    spent = left_out = 0
    for setting in material.settings:
        for each in setting.recipes:
            run = first_run(each)
            found = run.summary.get("gallery")
            if not found or not (run.folder / SHEET).exists():
                continue
            if spent > MOST:
                left_out += 1
                continue
            rows = _rows(run, found)
            spent += sum(len(tile["png"]) for row in rows for tile in row)
            content = {"columns": COLUMNS, "rows": rows, "label": each.label, "class": material.colours.css_class(each)}
            caption = f"{run.name}, the deployed model. Copies: {found['how']}. {ADDED}"
            folded = "" if not blocks else f"{setting.title}: {each.label}"
            blocks.append(Block("gallery", f"{setting.title}: {each.label}", caption, content=content, folded=folded))
    missing = "" if blocks else "No run has a gallery: easybn summarise RUNS makes it, where the models are."
    if left_out:
        missing = f"{left_out} more galleries are left out to keep the page small: a report of fewer runs shows them."
    lead = "The first test images that the model gets right, as the same network sees them easier and harder."
    return Section("gallery", "Gallery", lead if blocks else "", blocks, missing)


ADDED = "Changes are shown around grey, amplified by the factor under them."


def _rows(run: RunRows, found: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """A tile for each picture of the sheet, with its words."""
    data = io.BytesIO(read_bytes(run.folder / SHEET, 2**24))
    with Image.open(data, formats=["PNG"]) as opened:
        if opened.width * opened.height > 2**24:
            raise ValueError(f"{run.folder / SHEET} has {opened.width} x {opened.height} pixels: no gallery of ours")
        sheet = opened.convert(opened.mode if opened.mode in ("L", "RGB") else "RGB")
    height, width = found["size"]
    out = []
    for i, item in enumerate(found["images"]):
        tiles = [sheet.crop((j * width, i * height, (j + 1) * width, (i + 1) * height)) for j in range(3)]
        shown = [_said(tiles[0], COLUMNS[0], item, "original")]
        for j, name in ((1, "easy"), (2, "adversarial")):
            shown += [_added(tiles[0], tiles[j], COLUMNS[2 * j - 1]), _said(tiles[j], COLUMNS[2 * j], item, name)]
        out.append(shown)
    return out


def _said(tile: Image.Image, column: str, item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A picture, and what the model says of it."""
    said = item[name]
    text = f"{said['class']} {100 * said['confidence']:.1f}%"
    alt = f"a test image of {item['label']}; the model says {text}"
    return {"png": _uri(tile), "column": column, "text": text, "wrong": said["class"] != item["label"], "alt": alt}


def _added(original: Image.Image, copy: Image.Image, column: str) -> dict[str, Any]:
    """The difference around grey, amplified by the largest whole factor that fits between black and white."""
    difference = np.asarray(copy, np.int16) - np.asarray(original, np.int16)
    factor = max(1, 127 // max(1, int(np.abs(difference).max())))
    tile = Image.fromarray(np.clip(128 + factor * difference, 0, 255).astype(np.uint8))
    text = f"\N{MULTIPLICATION SIGN}{factor}"
    return {"png": _uri(tile), "column": column, "text": text, "wrong": False, "alt": f"amplified {factor} times"}


def _uri(tile: Image.Image) -> str:
    buffer = io.BytesIO()
    tile.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
