"""What the report shows of a model beyond its scores, gathered where the model is: summary.json and gallery.png.

The one part of the report that opens models; a run's summary is some tens of kilobytes and kept with its rows.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..data import Source
from ..evaluation.verdicts import pack_bits, points_digest
from ..json_files import Damaged, Row, read_json, write_json, write_rows
from ..progress import OnProgress, silent
from .pictures import gallery
from .run import Run
from .target import data_of
from .verdicts import findings_in, store_verdicts

BINS = 20
BATCH = 500
SUMMARY, VERDICTS = "summary.json", "verdicts.jsonl"


def summarise(run: Run, on_progress: OnProgress = silent) -> bool:
    """Write summary.json, gallery.png and verdicts.jsonl into the folder of a finished run.

    ============== ==================================================================================
    summary.json   data; n; confidence: {right, wrong}, 20 bins of how many test images the model was
                   how sure of; gallery; findings of the diagnosis, if one was made
    gallery.png    six test images, see :func:`easybn.runs.pictures.gallery`
    verdicts.jsonl a row for each radius of each attack with a store, and for clean accuracy unless
                   scores.jsonl has it: which points the model gets right, see :mod:`easybn.runs.verdicts`
    ============== ==================================================================================

    Args:
        on_progress: called after every batch of images.

    Returns:
        False if all was there already.

    Raises:
        FileNotFoundError: the run is not finished, or its data are not there.
        BusyError: another process is at work there.
    """
    weights = run.folder / "model.safetensors"
    if not weights.exists():
        raise FileNotFoundError(f"{run.folder} is not finished: run its easybn train again")
    with run.locked():
        scores, exported = run.scores, list(store_verdicts(run.folder))
        summary = run.folder / SUMMARY
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
        pictures = gallery(model, source, right, run.folder / "gallery.png", on_progress)
        found: dict[str, Any] = {
            "data": source.name,
            "n": len(right),
            "confidence": {"right": bins(sure[right]), "wrong": bins(sure[~right])},
            "gallery": pictures,
            "findings": findings,
            "made_of": made_of,
        }
        write_rows(run.folder / VERDICTS, exported)
        write_json(summary, found, indent=None)  # last: where it is, the others are
    return True


def clean_verdicts(scores: Sequence[Row]) -> list[Row]:
    """The rows of the deployed branch's clean accuracy that say which points are right."""
    return [
        row for row in scores if row["attack"] == "clean" and row.get("branch", "main") == "main" and "right" in row
    ]


def _digest(weights: Path, *others: Any) -> str:
    """Of all that a summary comes from: another verdict of a point is another digest, be the rows as many as before."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    digest.update(json.dumps(others, sort_keys=True).encode())
    return digest.hexdigest()


def _made_of(run: Run) -> str | None:
    """What the files here were made of; None if one is missing or cannot be read."""
    files = [run.folder / name for name in (SUMMARY, VERDICTS, "gallery.png")]
    try:
        return read_json(files[0]).get("made_of") if all(file.exists() for file in files) else None
    except Damaged:  # it is made anew
        return None


def predictions(model: nn.Module, source: Source, on_progress: OnProgress = silent) -> tuple[Tensor, Tensor]:
    """int64 (n,) classes and float32 (n,) confidences of the model on all test images."""
    guesses, sures = [], []
    n = len(source.test)
    with torch.inference_mode():
        for index in torch.split(torch.arange(n), BATCH):
            confidence, guess = model(source.test.batch(index)[0]).float().softmax(1).max(1)
            guesses.append(guess)
            sures.append(confidence)
            on_progress(int(index[-1]) + 1, n, "predictions")
    return torch.cat(guesses), torch.cat(sures)


def bins(confidence: Tensor) -> list[int]:
    """How many of the confidences (n,) in [0, 1] lie in each of 20 bins of one width; 1 is in the last."""
    return torch.histc(confidence.float(), BINS, 0, 1).long().tolist()
