"""Stored adversarial images, tested again: nothing that was found is taken on trust."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..attacks.prepare import Progress, silent
from ..attacks.verdict import fooled
from ..perturb.ball import L2, Ball, Linf
from .record import CLEAN, Record
from .store import Store

BALLS: dict[str, type[L2] | type[Linf]] = {"l2": L2, "linf": Linf}
Logits = Callable[[Tensor], Tensor]


class Problem(NamedTuple):
    """Something about a point that does not hold.

    Args:
        point: its id.
        attack: of the stage that claims it.
        eps: of that stage, in [0, 1] pixel units.
        what: what is wrong.
    """

    point: int
    attack: str
    eps: float
    what: str


def verify(
    store: Store, logits: Logits, x: Tensor, y: Tensor, *, batch_size: int = 256, progress: Progress = silent
) -> list[Problem]:
    """Classify every stored adversarial image again, and measure how far it is from its original.

    An image of a point that fell must lie within the radius of its stage; one of a point that did not (found
    by a minimum-distance attack) within the distance that the record states. All must lie in [0, 1] and be
    misclassified. The clean stage is classified again too.

    Args:
        store: a job that keeps images.
        logits: of the original model in eval mode: images (n, ...) on the CPU, as stored or as in ``x``, to (n, K).
        x: images of the manifest's points in their order, in [0, 1], (N, ...).
        y: their classes, int64, (N,).
        batch_size: images a forward pass.
        progress: told after every stage.

    Returns:
        The problems; empty if everything holds. Files that are damaged are left out and reported by the store.

    Raises:
        ValueError: the job keeps no images, or another number of points.
    """
    manifest = store.manifest
    if not manifest.keep_images:
        raise ValueError(f"{store.folder}: no images were kept, so that there is nothing to verify")
    if len(x) != len(manifest.points) or len(y) != len(x):
        raise ValueError(f"{len(x)} images and {len(y)} labels for {len(manifest.points)} points")
    row_of = {point: row for row, point in enumerate(manifest.points)}
    problems: list[Problem] = []
    for file, record, images in store.read():
        stage = manifest.stages[file.stage]
        ids = record.point if images is None or stage == CLEAN else images[0]
        rows = torch.tensor([row_of[int(point)] for point in ids], dtype=torch.int64)
        original, label = x[rows.to(x.device)].cpu(), y.cpu()[rows]
        if images is None or stage == CLEAN:
            changed = _misclassified(logits, original, label, batch_size) != record.fell
            faults = {"the clean image's verdict is another one than the stored": changed}
        else:
            image = torch.from_numpy(images[1])
            faults = _outside(BALLS[manifest.norm](stage.eps), image, original, _radii(record, ids))
            faults["the image is classified correctly"] = ~_misclassified(logits, image, label, batch_size)
        problems += [Problem(int(point), *stage, what) for what, bad in faults.items() for point in ids[bad]]
        progress(file.chunk * len(manifest.stages) + file.stage + 1, manifest.chunks * len(manifest.stages), "verify")
    return problems


def _radii(record: Record, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) how far each point's image may be: eps if the point fell, else as far as the record says."""
    radius = dict.fromkeys(ids.tolist(), np.inf)
    allowed = np.where(record.fell, record.eps, record.distance)
    for point, far in zip(record.point.tolist(), allowed.tolist(), strict=True):
        if point in radius:
            radius[point] = min(radius[point], far)
    return np.array([radius[point] for point in ids.tolist()])


def _outside(ball: Ball, image: Tensor, original: Tensor, radius: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    if not len(image):
        return {}
    pixels = image.flatten(1)
    slack = 1e-7 * math.sqrt(pixels.shape[1])  # of roundings, as in check_within
    within = ball.distance(image, original).numpy() <= radius + slack
    inside = ((pixels >= 0) & (pixels <= 1)).all(1).numpy()
    return {"the image is outside its ball": ~within, "the image is outside [0, 1]": ~inside}


@torch.no_grad()
def _misclassified(logits: Logits, image: Tensor, label: Tensor, batch_size: int) -> NDArray[np.bool_]:
    """bool (n,), one batch after the other."""
    wrong = np.empty(len(image), np.bool_)
    for start in range(0, len(image), batch_size):
        batch = slice(start, start + batch_size)
        wrong[batch] = fooled(logits(image[batch]).cpu(), label[batch])[0].numpy()
    return wrong
