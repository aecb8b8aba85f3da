"""A data set of one's own in one file: which of three shapes is drawn, in grey pictures of 16 x 16.

easybn train --data examples/my_dataset.py:make --model resnet_tiny --epochs 2
"""

import numpy as np
import torch

from easybn.data import Source

CLASSES = ("disc", "square", "cross")
SIZE = 16


def draw(shape: int, across: int, down: int, radius: int) -> np.ndarray:
    """Where the shape is, as True and False, (SIZE, SIZE)."""
    y, x = np.mgrid[:SIZE, :SIZE] - np.array([down, across])[:, None, None]
    if CLASSES[shape] == "disc":
        return x**2 + y**2 <= radius**2
    if CLASSES[shape] == "square":
        return np.maximum(abs(x), abs(y)) <= radius
    return (np.minimum(abs(x), abs(y)) <= 1) & (np.maximum(abs(x), abs(y)) <= radius)


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` pictures (N, 1, SIZE, SIZE), uint8, and their labels (N,); the same for the same seed."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = random.integers(0, 60, (count, 1, SIZE, SIZE), np.uint8)  # noise in the background
    for image, label in zip(images, labels, strict=True):
        across, down = random.integers(5, SIZE - 5, 2).tolist()
        image[0, draw(int(label), across, down, int(random.integers(3, 6)))] = random.integers(120, 256)
    return torch.from_numpy(images), torch.from_numpy(labels)


def make() -> Source:
    """600 training and 150 test pictures. A function may also return (train, test), as torchvision's data sets are."""
    return Source.from_tensors(*pictures(600, 0), *pictures(150, 1), classes=CLASSES, name="my_dataset")
