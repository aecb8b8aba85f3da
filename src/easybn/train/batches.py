"""The batches of a training: images chosen, cropped and flipped, on the device if they are kept there."""

import torch
from torch import Tensor

from ..data.augment import AUGMENTATIONS
from ..data.split import Split
from ..keyed_random import Noise, permutation
from .schedule import Training

MEMORY_FRACTION = 4
"""Images are kept on a CUDA device if they take at most 1 / 4 of its free memory."""


def keep_on_device(split: Split, device: torch.device, on_device: bool | None = None) -> Split:
    """``split`` moved to ``device`` if its images are to be kept there, otherwise unchanged.

    Args:
        on_device: whether to move it; None: if ``device`` is a CUDA device with room, see :data:`MEMORY_FRACTION`.

    Raises:
        ValueError: ``on_device`` is True and they do not fit.
    """
    if on_device is None:
        count, (channels, height, width) = len(split), split.shape
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        on_device = count * channels * height * width * MEMORY_FRACTION <= free
    if not on_device:
        return split
    try:
        return split.to(device)
    except torch.OutOfMemoryError:
        raise ValueError(f"the {len(split):,} images do not fit on {device}: leave them in memory") from None


class Batches:
    """The batch of each step, a function of seed and step alone, wherever the images are stored.

    Args:
        split: the training images. If they are on the device already, no batch waits for a copy.
        training: its seed and augmentation are used.
        size: images per batch, at most as many as there are.
        device: where the batches are made.
        layout: memory format of the images.
    """

    def __init__(
        self, split: Split, training: Training, size: int, device: torch.device, layout: torch.memory_format
    ) -> None:
        self._split, self._size, self._device, self._layout = split, size, device, layout
        self._seed, self._augment = training.seed, training.augment
        self._order, self._order_epoch = torch.empty(0), -1

    @property
    def per_epoch(self) -> int:
        """Full batches per epoch."""
        return len(self._split) // self._size

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step.

        Returns:
            x: float32 of shape (N, C, H, W) in [0, 1].
            y: int64 of shape (N,).
            ids: int64 of shape (N,), the images' indices in the training set.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._order_epoch:
            self._order = permutation(len(self._split), self._seed, "order", epoch, self._split.device)
            self._order_epoch = epoch
        ids = self._order[position * self._size : (position + 1) * self._size]
        pixels, y = self._split.pixels(ids), self._split.labels.index_select(0, ids.to(self._split.labels.device))
        pixels, y, ids = (self._to_device(part) for part in (pixels, y, ids))
        if self._augment != "none":  # of bytes: a quarter of the memory traffic of floats
            pixels = AUGMENTATIONS[self._augment](pixels, Noise.of(self._seed, "augment", ids, step))
        return pixels.float().div_(255).contiguous(memory_format=self._layout), y, ids

    def _to_device(self, part: Tensor) -> Tensor:
        if part.device.type == "cpu" and self._device.type == "cuda":
            part = part.pin_memory()  # only copies from pinned memory do not block
        return part.to(self._device, non_blocking=True)
