"""The batches of a training, made where it computes: images chosen, cropped and mirrored on the device."""

import torch
from torch import Tensor

from ..data.augment import AUGMENTATIONS
from ..data.split import Split
from ..keyed_random import Noise, permutation
from .schedule import Training

SHARE = 4
"""Images are kept on a CUDA device if they take at most one in so many of its free bytes."""


def placed(split: Split, device: torch.device, on_device: bool | None = None) -> Split:
    """``split`` on ``device``, where its images are to be kept there; otherwise as it is.

    Args:
        on_device: None: if ``device`` is a CUDA device with room for them, see :data:`SHARE`.

    Raises:
        ValueError: they are to be kept there and do not fit.
    """
    if on_device is None:
        count, (channels, height, width) = len(split), split.shape
        room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        on_device = count * channels * height * width * SHARE <= room
    if not on_device:
        return split
    try:
        return split.to(device)
    except torch.OutOfMemoryError:
        raise ValueError(f"the {len(split):,} images do not fit on {device}: leave them in memory") from None


class Batches:
    """The batch of each step, which follows from the seed and the step alone, wherever the images are.

    Args:
        split: the training images; those that are on the device already are never copied to it, and no batch of them
            waits for it.
        training: its seed and augmentation.
        size: images a batch, at most as many as there are.
        device: of the batches.
        layout: of the images in memory.
    """

    def __init__(
        self, split: Split, training: Training, size: int, device: torch.device, layout: torch.memory_format
    ) -> None:
        self._split, self._size, self._device, self._layout = split, size, device, layout
        self._seed, self._augment = training.seed, training.augment
        self._order, self._order_epoch = torch.empty(0), -1

    @property
    def per_epoch(self) -> int:
        """Whole batches in the training images."""
        return len(self._split) // self._size

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step.

        Returns:
            x: float32 of shape (N, C, H, W) in [0, 1].
            y: int64 of shape (N,).
            ids: int64 of shape (N,), the samples' numbers in the training images.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._order_epoch:
            self._order = permutation(len(self._split), self._seed, "order", epoch, self._split.device)
            self._order_epoch = epoch
        ids = self._order[position * self._size : (position + 1) * self._size]
        pixels, y = self._split.pixels(ids), self._split.labels.index_select(0, ids.to(self._split.labels.device))
        pixels, y, ids = (self._sent(part) for part in (pixels, y, ids))
        if self._augment != "none":  # of bytes, a quarter of what floats would move
            pixels = AUGMENTATIONS[self._augment](pixels, Noise.of(self._seed, "augment", ids, step))
        return pixels.float().div_(255).contiguous(memory_format=self._layout), y, ids

    def _sent(self, part: Tensor) -> Tensor:
        if part.device.type == "cpu" and self._device.type == "cuda":
            part = part.pin_memory()  # from other memory the copy would be waited for
        return part.to(self._device, non_blocking=True)
