"""Labelled 8-bit images, and some of them as a view."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Labelled images, all of one shape. The images may be memory-mapped and larger than memory.

    Args:
        images: uint8 tensor of shape (N, C, H, W).
        labels: int64 tensor of shape (N,), none negative.

    Raises:
        DataError: shapes or types other than these.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            found = f"{self.images.dtype} of shape {tuple(self.images.shape)}"
            raise DataError(f"images must be uint8 of shape (N, C, H, W), got {found}: see Source.from_tensors")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            found = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise DataError(f"labels must be int64 of shape (N,), got {found}: see Source.from_tensors")
        if len(self.images) != len(self.labels):
            raise DataError(f"every image needs one label, got {len(self.images)} images and {len(self.labels)} labels")
        if len(self.labels) and int(self.labels.min()) < 0:
            raise DataError(f"labels must not be negative, got {int(self.labels.min())}: number the classes from 0")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images of shape {self.shape})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def to(self, device: torch.device | str) -> "Split":
        """The samples with their images and labels on ``device``; the same split if they are there already."""
        device = torch.empty(0, device=device).device  # with its number, as tensors have it
        if device == self.device == self.labels.device:
            return self
        images = torch.empty((len(self), *self.shape), dtype=torch.uint8, device=device)
        for start in range(0, len(self), 4096):  # the images may be larger than memory
            part = images[start : start + 4096]
            part.copy_(self.pixels(torch.arange(start, start + len(part))))
        return Split(images, self.labels.to(device))

    @property
    def numbers(self) -> Tensor:
        """(N,) int64: the number of each sample in the split that this is a :meth:`subset` of; of others 0 .. N - 1."""
        return torch.arange(len(self))

    def pixels(self, index: Tensor) -> Tensor:
        """(B, C, H, W) uint8: the images numbered ``index`` (int64, shape (B,)); no other row is read."""
        return self.images.index_select(0, index.to(self.images.device))  # far faster than images[index]

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples numbered ``index`` (int64, shape (B,)), read from no other row.

        Returns:
            x: float32 of shape (B, C, H, W) in [0, 1].
            y: int64 of shape (B,).
        """
        return self.pixels(index).float().div_(255), self.labels[index.to(self.labels.device)]

    def subset(self, index: Tensor) -> "Split":
        """The samples numbered ``index`` (int64, shape (B,)), in that order, as a view that copies no image."""
        return _Rows(self, index)


class _Rows(Split):
    """Some samples of another split. ``images`` copies them, ``pixels`` and ``batch`` read what is asked."""

    _of: Split
    _rows: Tensor

    def __init__(self, of: Split, rows: Tensor) -> None:
        if rows.dtype != torch.int64 or rows.dim() != 1:
            raise DataError(f"an index must be int64 of shape (N,), got {rows.dtype} of shape {tuple(rows.shape)}")
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(of)):
            raise DataError(f"an index must be in 0 .. {len(of) - 1}, got {int(rows.min())} .. {int(rows.max())}")
        # a frozen class sets its fields this way; a view of a view looks through to the images themselves
        object.__setattr__(self, "_of", of._of if isinstance(of, _Rows) else of)
        object.__setattr__(self, "_rows", of._rows[rows.to(of._rows.device)] if isinstance(of, _Rows) else rows)
        object.__setattr__(self, "labels", of.labels[rows.to(of.labels.device)])

    @property
    def images(self) -> Tensor:
        return self._of.pixels(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._of.shape

    @property
    def device(self) -> torch.device:
        return self._of.device

    @property
    def numbers(self) -> Tensor:
        return self._rows

    def pixels(self, index: Tensor) -> Tensor:
        return self._of.pixels(self._rows[index.to(self._rows.device)])
