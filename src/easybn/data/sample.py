"""The sample inside the package: 6,000 real Fashion-MNIST images, so that everything runs at once, offline.

The first 500 images of each class of the training set and the first 100 of each class of the test set,
in their original order. It is for tests and first steps; results come from the whole data set.
"""

from pathlib import Path

import torch

from .fashion_mnist import CLASSES
from .idx import read_idx
from .source import Source, Split

FOLDER = Path(__file__).parent / "fashion_mnist_sample"


def _split(kind: str) -> Split:
    images = torch.from_numpy(read_idx(FOLDER / f"{kind}-images-idx3-ubyte.gz", 3))
    labels = torch.from_numpy(read_idx(FOLDER / f"{kind}-labels-idx1-ubyte.gz", 1))
    return Split(images[:, None], labels.long())


def sample() -> Source:
    """5,000 training and 1,000 test images, (1, 28, 28), ten balanced classes."""
    return Source.from_splits("sample", CLASSES, _split("train"), _split("t10k"))
