"""A folder laid out like CIFAR-10-C, with images whose content says what they are."""

from pathlib import Path

import numpy as np

from easybn.data.corruptions import CORRUPTIONS


def write_published(folder: Path, labels: np.ndarray, side: int = 8, channels: int = 3) -> Path:
    """Every image is constant: its number, times 5, plus its severity; the last channel is the number of its kind."""
    folder.mkdir(parents=True)
    n = len(labels)
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    for number, kind in enumerate(CORRUPTIONS):
        images = np.zeros((5 * n, side, side, channels), np.uint8)
        for severity in range(1, 6):
            rows = np.arange(n)[:, None, None, None]
            images[(severity - 1) * n : severity * n] = (5 * rows + severity) % 256
        images[..., -1] = number
        np.save(folder / f"{kind}.npy", images)
    return folder
