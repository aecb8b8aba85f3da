"""What the report shows of a model beyond its scores: how sure it is, and a gallery of perturbed test images.

Only this step of a report needs the model. It is kept as rows and a picture of some tens of kilobytes per run, so that
a report can be made where the weights are not.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .. import models
from ..data import Source
from ..evaluation.verdicts import pack_bits, points_digest
from ..files import replacing
from ..json_files import Damaged, Row, read_json, write_json, write_rows
from ..perturb.ball import Linf
from ..perturb.goal import easy, untargeted
from ..perturb.pgd import PGD
from ..progress import OnProgress, silent
from .run import Run
from .target import data_of
from .verdicts import findings_in, store_verdicts

SUMMARY, VERDICTS, GALLERY = "summary.json", "verdicts.jsonl", "gallery.png"
BINS = 20
BATCH = 500

GALLERY_IMAGES = 6
GALLERY_COLUMNS = ("original", "easy", "adversarial")
GALLERY_ATTACK = PGD(Linf(8 / 255), steps=10)
GALLERY_CAPTION = "10 steps within l-infinity 8/255"
TILE_SIZE = 64  # largest height or width of a tile, in pixels


def summarise(run: Run, on_progress: OnProgress = silent) -> bool:
    """Write summary.json, gallery.png and verdicts.jsonl into the folder of a finished run.

    ============== ==================================================================================
    summary.json   data; n; confidence: {right, wrong}, numbers of test images in 20 bins of
                   confidence; gallery, see :func:`gallery`; findings of the diagnosis
    gallery.png    six test images with an easy and an adversarial copy of each
    verdicts.jsonl one row per radius of each attack with a store, and for clean accuracy unless
                   scores.jsonl has it: which points the model gets right, see :mod:`easybn.runs.verdicts`
    ============== ==================================================================================

    Args:
        on_progress: called after every batch of images.

    Returns:
        False if everything was there already.

    Raises:
        FileNotFoundError: the run is not finished, or its data are not there.
        BusyError: another process is working there.
    """
    weights = run.folder / "model.safetensors"
    if not weights.exists():
        raise FileNotFoundError(f"{run.folder} is not finished: run its easybn train again")
    with run.locked():
        scores, exported = run.scores, list(store_verdicts(run.folder))
        findings = findings_in(run.folder, scores)
        made_of = _digest(weights, run.config, findings, exported, *clean_verdicts(scores))
        if _made_of(run) == made_of:
            return False
        source = data_of(run)
        model = models.load(run.folder).eval()
        guess, sure = predictions(model, source, on_progress)
        right = guess == source.test.labels
        if not any(row["n"] == len(right) for row in clean_verdicts(scores)):
            about = {"attack": "clean", "n": len(right), "points": points_digest(range(len(right)))}
            exported.insert(0, {**about, "right": pack_bits(right.numpy())})
        summary: dict[str, Any] = {
            "data": source.name,
            "n": len(right),
            "confidence": {"right": bins(sure[right]), "wrong": bins(sure[~right])},
            "gallery": gallery(model, source, right, run.folder / GALLERY, on_progress),
            "findings": findings,
            "made_of": made_of,
        }
        write_rows(run.folder / VERDICTS, exported)
        write_json(run.folder / SUMMARY, summary, indent=None)  # last: it means that the other files are there
    return True


def clean_verdicts(scores: Sequence[Row]) -> list[Row]:
    """Rows of the deployed branch's clean accuracy that say which points are right."""
    return [
        row for row in scores if row["attack"] == "clean" and row.get("branch", "main") == "main" and "right" in row
    ]


def _digest(weights: Path, *others: Any) -> str:
    """Digest of everything that a summary is made of, each verdict included."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    digest.update(json.dumps(others, sort_keys=True).encode())
    return digest.hexdigest()


def _made_of(run: Run) -> str | None:
    """Digest of what the present files were made of; None if one is missing or cannot be read."""
    files = [run.folder / name for name in (SUMMARY, VERDICTS, GALLERY)]
    try:
        return read_json(files[0]).get("made_of") if all(file.exists() for file in files) else None
    except Damaged:  # they are made again
        return None


def predictions(model: nn.Module, source: Source, on_progress: OnProgress = silent) -> tuple[Tensor, Tensor]:
    """int64 (n,) classes and float32 (n,) confidences of the model on all test images."""
    guesses, confidences = [], []
    n = len(source.test)
    with torch.inference_mode():
        for index in torch.split(torch.arange(n), BATCH):
            confidence, guess = model(source.test.batch(index)[0]).float().softmax(1).max(1)
            guesses.append(guess)
            confidences.append(confidence)
            on_progress(int(index[-1]) + 1, n, "predictions")
    return torch.cat(guesses), torch.cat(confidences)


def bins(confidence: Tensor) -> list[int]:
    """Numbers of confidences (n,) in 20 equal bins of [0, 1]; 1 is in the last."""
    return torch.histc(confidence.float(), BINS, 0, 1).long().tolist()


def gallery(
    model: nn.Module, source: Source, right: Tensor, path: Path, on_progress: OnProgress = silent
) -> dict[str, Any]:
    """Write a sheet with one row per image and the columns ``GALLERY_COLUMNS``.

    The images are the first of each class that the model gets right, so that runs on one data set show nearly the same
    images. Copies are rounded to the 8 bits of a picture, and the confidences are those of the rounded copies.

    Args:
        right: bool (n,), which test images the model gets right.

    Returns:
        size (height and width of a tile), how (the copies were made, in words), and images: label, and the class and
        confidence that the model gives the original, easy and adversarial image.
    """
    index = gallery_images(source.test.labels, right)
    on_progress(0, len(index), "gallery")
    x, y = source.test.batch(index)
    pictures = {"original": x, "easy": _eight_bits(GALLERY_ATTACK(model, x, easy(y)))}
    pictures["adversarial"] = _eight_bits(GALLERY_ATTACK(model, x, untargeted(y)))
    with torch.no_grad():
        answers = {name: model(images.clone()).float().softmax(1).max(1) for name, images in pictures.items()}
    images: list[dict[str, Any]] = []
    tiles: list[list[Tensor]] = []
    for i, label in enumerate(y.tolist()):
        item: dict[str, Any] = {"label": source.classes[label]}
        for name, (confidence, guess) in answers.items():
            item[name] = {"class": source.classes[int(guess[i])], "confidence": round(float(confidence[i]), 4)}
        images.append(item)
        tiles.append([pictures[name][i] for name in GALLERY_COLUMNS])
    size = save_sheet(path, tiles)
    on_progress(len(index), len(index), "gallery")
    return {"size": size, "how": GALLERY_CAPTION, "images": images}


def gallery_images(labels: Tensor, right: Tensor) -> Tensor:
    """int64 (k,), k at most 6: the first image that is right of each of the first classes that have one."""
    first = [(right & (labels == label)).nonzero()[:1, 0] for label in sorted(set(labels.tolist()))]
    return torch.cat(first)[:GALLERY_IMAGES] if first else torch.zeros(0, dtype=torch.int64)


def _eight_bits(images: Tensor) -> Tensor:
    return (images * 255).round() / 255


def save_sheet(path: Path, tiles: list[list[Tensor]]) -> list[int]:
    """Write the tiles, images (C, H, W) in [0, 1], as one PNG file; returns height and width of a tile."""
    pictures = [[_tile(image) for image in row] for row in tiles]
    first = next((tile for row in pictures for tile in row), None)
    width, height = first.size if first else (1, 1)
    columns = max([1, *map(len, pictures)])
    sheet = Image.new(first.mode if first else "L", (width * columns, height * max(len(pictures), 1)))
    for i, row in enumerate(pictures):
        for j, tile in enumerate(row):
            sheet.paste(tile, (j * width, i * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    with replacing(path) as file:
        file.write(buffer.getvalue())
    return [height, width]


def _tile(image: Tensor) -> Image.Image:
    """The picture of an image (C, H, W) in [0, 1], large ones reduced."""
    pixels: np.ndarray = (image * 255).round().byte().permute(1, 2, 0).numpy()
    tile = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
    tile.thumbnail((TILE_SIZE, TILE_SIZE))
    return tile
