"""Six test images of different classes, made easier and harder for a model, as one sheet of pictures."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...data import Source
from ...files import replacing
from ...perturb.ball import Linf
from ...perturb.goal import easy, untargeted
from ...perturb.pgd import PGD

IMAGES = 6
ATTACK = PGD(Linf(8 / 255), steps=10)
HOW = "10 steps within l-infinity 8/255"
COLUMNS = ("original", "easy", "adversarial")
LARGEST = 64  # pixels of a tile's side


def gallery(
    model: nn.Module, source: Source, right: Tensor, path: Path, told: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Write the sheet, a row an image and a column for each of ``COLUMNS``.

    The images are the first of each class that the model gets right, so that all runs of a data set show almost the
    same. Copies are rounded to the 8 bits that a picture holds, and the confidences are of these, so that what was
    added is the difference of two pictures.

    Args:
        right: bool (n,), which test images the model gets right.

    Returns:
        size (height, width of a tile), how (the copies were made, in words), and images: label,
        the class and confidence that the model gives original, easy and adversarial.
    """
    index = chosen(source.test.labels, right)
    told(0, len(index), "gallery")
    x, y = source.test.batch(index)
    pictures = {"original": x, "easy": _eight_bits(ATTACK(model, x, easy(y)))}
    pictures["adversarial"] = _eight_bits(ATTACK(model, x, untargeted(y)))
    with torch.no_grad():
        said = {name: model(images.clone()).float().softmax(1).max(1) for name, images in pictures.items()}
    images: list[dict[str, Any]] = []
    tiles: list[list[Tensor]] = []
    for i, label in enumerate(y.tolist()):
        item: dict[str, Any] = {"label": source.classes[label]}
        for name, (confidence, guess) in said.items():
            item[name] = {"class": source.classes[int(guess[i])], "confidence": round(float(confidence[i]), 4)}
        images.append(item)
        tiles.append([pictures[name][i] for name in COLUMNS])
    size = _save(path, tiles)
    told(len(index), len(index), "gallery")
    return {"size": size, "how": HOW, "images": images}


def chosen(labels: Tensor, right: Tensor) -> Tensor:
    """int64 (k,), k at most 6: the first image of each class that is right, of the first classes that have one."""
    of = [(right & (labels == label)).nonzero()[:1, 0] for label in sorted(set(labels.tolist()))]
    return torch.cat(of)[:IMAGES] if of else torch.zeros(0, dtype=torch.int64)


def _eight_bits(images: Tensor) -> Tensor:
    return (images * 255).round() / 255


def _save(path: Path, tiles: list[list[Tensor]]) -> list[int]:
    pictures = [[_picture(tile) for tile in row] for row in tiles]
    width, height = pictures[0][0].size if pictures else (1, 1)
    sheet = Image.new(pictures[0][0].mode if pictures else "L", (width * len(COLUMNS), height * max(len(pictures), 1)))
    for i, row in enumerate(pictures):
        for j, tile in enumerate(row):
            sheet.paste(tile, (j * width, i * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    with replacing(path) as file:
        file.write(buffer.getvalue())
    return [height, width]


def _picture(image: Tensor) -> Image.Image:
    """Of an image (C, H, W) in [0, 1]; large ones made smaller."""
    pixels: np.ndarray = (image * 255).round().byte().permute(1, 2, 0).numpy()
    shown = pixels if pixels.shape[2] == 3 else pixels[:, :, 0]
    found = Image.fromarray(np.ascontiguousarray(shown))
    found.thumbnail((LARGEST, LARGEST))
    return found
