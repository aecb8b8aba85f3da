"""The pairs as the paper shows them: originals above their copies, and what was changed, amplified."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, PngImagePlugin
from torch import Tensor

from ...files import replacing
from .pairs import Pairs

SHOWN = 8  # pairs a class
TILE = 64  # pixels that an image has at least
MARGIN = 150  # for the text on the left
GAP = 4


def amplification(pairs: Pairs, index: Tensor) -> int:
    """The largest whole factor by which every difference still fits between black and white around grey."""
    largest = int((pairs.copies[index].int() - pairs.originals[index].int()).abs().max())
    return max(1, 127 // largest) if largest else 1


def picture(pairs: Pairs, classes: Sequence[str], title: str) -> Image.Image:
    """For each class three rows: the first originals, their copies, the amplified differences around grey.

    Args:
        pairs: images of 1 or 3 channels (of others the first is shown).
        classes: the two names.
        title: what the copies are, such as "easy 8/255, 10 steps".
    """
    columns = [(pairs.labels == label).nonzero().squeeze(1)[:SHOWN] for label in (0, 1)]
    shown = torch.cat(columns)
    factor = amplification(pairs, shown)
    height, width = (-(-TILE // min(pairs.originals.shape[2:])) * size for size in pairs.originals.shape[2:])
    block = 3 * (height + GAP) + 2 * GAP
    canvas = Image.new("RGB", (MARGIN + max(map(len, columns)) * (width + GAP), 2 * block), "white")
    draw = ImageDraw.Draw(canvas)
    for label, index in enumerate(columns):
        originals, copies = pairs.originals[index], pairs.copies[index]
        changed = (128 + factor * (copies.int() - originals.int())).clamp(0, 255).byte()
        texts = (f"class {label}: {classes[label]}", title, f"difference x {factor}")
        for row, (text, images) in enumerate(zip(texts, (originals, copies, changed), strict=True)):
            top = label * block + row * (height + GAP) + GAP
            draw.text((4, top + height // 2 - 6), text, fill="black")
            for column, image in enumerate(images):
                tile = _tile(image).resize((width, height), Image.Resampling.NEAREST)
                canvas.paste(tile, (MARGIN + column * (width + GAP), top))
    return canvas


def save_picture(path: Path, pairs: Pairs, classes: Sequence[str], title: str) -> None:
    """:func:`picture` as a PNG file, what it shows written in its header too."""
    about = PngImagePlugin.PngInfo()
    index = torch.cat([(pairs.labels == label).nonzero().squeeze(1)[:SHOWN] for label in (0, 1)])
    about.add_text("Description", f"{title}; difference x {amplification(pairs, index)}")
    buffer = io.BytesIO()
    picture(pairs, classes, title).save(buffer, "PNG", pnginfo=about)
    with replacing(path) as file:
        file.write(buffer.getvalue())


def _tile(image: Tensor) -> Image.Image:
    pixels: np.ndarray = image.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])).convert("RGB")
