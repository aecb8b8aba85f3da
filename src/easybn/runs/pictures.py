"""Six test images of different classes, made easier and harder for a model, as one sheet of pictures."""

import difflib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data import Source
from ..data.pictures import DEEP, FRAMES, TRANSPARENT, TURNED, decode_picture
from ..files import replacing
from ..perturb.ball import Linf
from ..perturb.goal import Goal, easy, untargeted
from ..perturb.pgd import PGD
from ..progress import OnProgress, silent

# One image perturbed for one model: what the model says before, after, and of what an 8-bit file keeps.


@dataclass(frozen=True)
class PerturbedImage:
    """Images of shape (C, H, W) in [0, 1] and confidences of shape (K,), which sum to 1.

    Args:
        original: as the model saw it.
        perturbed: the result, in the ball.
        saved: the result rounded to 8 bits, as a file holds it; no longer quite in the ball.
        before, after, after_saved: the model's confidences in each class of the three.
        distance, distance_saved: from the original, in the ball's norm.
    """

    original: Tensor
    perturbed: Tensor
    saved: Tensor
    before: Tensor
    after: Tensor
    after_saved: Tensor
    distance: float
    distance_saved: float

    @property
    def amplification(self) -> int:
        """The largest whole factor by which the difference still fits between black and white around grey."""
        largest = float((self.perturbed - self.original).abs().max())
        return max(1, int(0.5 / largest)) if largest > 0 else 1

    @property
    def difference(self) -> Tensor:
        """(C, H, W) in [0, 1]: the amplified difference around the grey of 0.5, which is no change."""
        return (0.5 + self.amplification * (self.perturbed - self.original)).clamp(0, 1)


def confidences(model: nn.Module, x: Tensor) -> Tensor:
    """(K,) the model's softmax on one image (C, H, W)."""
    with torch.no_grad():
        return model(x[None].clone())[0].float().softmax(0)


def perturb(model: nn.Module, x: Tensor, attack: PGD, goal: Goal) -> PerturbedImage:
    """Perturb the image ``x`` (C, H, W) in [0, 1] for ``model``, which is in eval mode."""
    moved = attack(model, x[None], goal)[0]
    saved = (moved * 255).round() / 255
    before, after, after_saved = (confidences(model, each) for each in (x, moved, saved))
    near, far = (float(attack.ball.distance(x[None], each[None])) for each in (moved, saved))
    return PerturbedImage(x, moved, saved, before, after, after_saved, near, far)


def as_seen(content: bytes, name: str, channels: int, size: tuple[int, int] | None) -> tuple[Tensor, list[str]]:
    """The image in ``content`` as a model takes it, and what had to be done to it.

    Args:
        name: what errors call it.
        channels: 1 or 3.
        size: (H, W) of the model's images; None to leave it as it is.

    Returns:
        (C, H, W) float32 in [0, 1], and a phrase for each change.

    Raises:
        ValueError: no readable image, or channels or a size that it cannot be brought to.
    """
    if channels not in (1, 3):
        raise ValueError(f"the model takes {channels} channels: only images of 1 or 3 can be read from a file")
    colours = decode_picture(content, name, 3)
    changes, resize = [], None
    if size is not None and colours.shape[1:] != size:
        if size[0] != size[1]:
            raise ValueError(f"{name}: has {_size(colours.shape[1:])} pixels, the model takes {_size(size)}")
        resize = size[0]
        shape = "" if colours.shape[1] == colours.shape[2] else ", the middle of the longer side"
        changes.append(f"resized from {_size(colours.shape[1:])} to {_size(size)} pixels{shape}")
    if channels == 1 and (colours != colours[:1]).any():
        changes.append("colours to grey")
    done: Counter[str] = Counter()
    pixels = torch.from_numpy(decode_picture(content, name, channels, resize, done).copy())
    words = {TRANSPARENT: "put on white", TURNED: "turned upright", DEEP: "16 bits to 8", FRAMES: "the first frame"}
    changes = [*(word for change, word in words.items() if done[change]), *changes]
    return pixels.float() / 255, changes


def class_number(text: str, classes: Sequence[str], option: str) -> int:
    """The number of the class called ``text``, by name (in any case, if one class alone is meant) or number from 0.

    Raises:
        ValueError: there is none; the message has ``option`` and the nearest name.
    """
    names = [name.lower() for name in classes]
    if text in classes:
        return list(classes).index(text)
    if names.count(text.lower()) == 1:
        return names.index(text.lower())
    if text.isascii() and text.isdigit() and int(text) < len(classes):
        return int(text)
    near = difflib.get_close_matches(text.lower(), names, n=1)
    hint = f" (did you mean {classes[names.index(near[0])]}?)" if near else ""
    known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    raise ValueError(f"{option}: no class {text!r}{hint}; there are {known}, or numbers 0 .. {len(classes) - 1}")


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"


IMAGES = 6
ATTACK = PGD(Linf(8 / 255), steps=10)
HOW = "10 steps within l-infinity 8/255"
COLUMNS = ("original", "easy", "adversarial")
LARGEST = 64  # pixels of a tile's side


def gallery(
    model: nn.Module, source: Source, right: Tensor, path: Path, on_progress: OnProgress = silent
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
    on_progress(0, len(index), "gallery")
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
    on_progress(len(index), len(index), "gallery")
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
