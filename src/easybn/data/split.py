"""Labelled 8-bit images: a split of a data set, made from tensors, measured, and divided at random.

:class:`Split` holds uint8 images and gives batches in [0, 1]; a subset of it is a view. :func:`as_pixels` and
:func:`as_labels` take tensors of other types without loss, or refuse. :func:`draw` divides samples fairly by class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..keyed_random import permutation

_LONGEST = 1500  # characters of a message


class DataError(ValueError):
    """One line for the person who runs this: what was wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        text = printable(message)
        # a message may quote a name of 60,000 letters, which would hide the rest of it
        super().__init__(text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}")


def printable(text: str) -> str:
    """``text`` on one line that can be encoded: bytes of a name that are not UTF-8, and line ends, become escapes."""
    escaped = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return escaped.replace("\n", "\\n").replace("\r", "\\r")


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
    """Some samples of another split. ``images`` copies all of them, ``pixels`` and ``batch`` only those asked for."""

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


def as_pixels(images: Tensor, what: str) -> Tensor:
    """``images`` as uint8 (N, C, H, W): uint8 as they are, floating point only if nothing is lost.

    Args:
        images: uint8, or float32 or float64 in [0, 1] whose values are whole multiples of 1/255.
        what: what an error calls them.

    Raises:
        DataError: anything else.
    """
    if not isinstance(images, Tensor):
        raise DataError(f"{what} must be a tensor, got {type(images).__name__}: torch.from_numpy makes one of an array")
    if images.dim() != 4:
        advice = ": add the channel with images[:, None]" if images.dim() == 3 else ""
        raise DataError(f"{what} must have shape (N, C, H, W), got {tuple(images.shape)}{advice}")
    if images.dtype == torch.uint8:
        return images
    if images.dtype not in (torch.float32, torch.float64):
        advice = "use .to(torch.uint8) if the values are 0 .. 255, .float() if they are 0 .. 1"
        raise DataError(f"{what} must be uint8, or float32 or float64 in [0, 1], got {images.dtype}: {advice}")
    if not images.numel():
        return images.to(torch.uint8)
    low, high = (float(v) for v in images.aminmax())
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        advice = "normalise inside the model, and use .to(torch.uint8) if the values are 0 .. 255"
        raise DataError(f"{what} must be in [0, 1], got {low:g} .. {high:g}: {advice}")
    levels = images.mul(255).round_()
    if float((images - levels / 255).abs().max()) > 1e-6:  # a few roundings of a float32 below 1
        advice = "(images * 255).round().to(torch.uint8) rounds them, if that is meant"
        raise DataError(f"{what} are not whole multiples of 1/255, so 8 bits would lose something: {advice}")
    return levels.to(torch.uint8)


def as_labels(labels: Tensor, what: str) -> Tensor:
    """``labels`` (N,) of any integer type as int64.

    Raises:
        DataError: another shape or type.
    """
    if not isinstance(labels, Tensor):
        raise DataError(f"{what} must be a tensor, got {type(labels).__name__}: use torch.as_tensor")
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise DataError(f"{what} must be whole numbers, got {labels.dtype}: use .long()")
    if labels.dim() != 1:
        advice = ": argmax(1) undoes a one-hot encoding" if labels.dim() == 2 else ""
        raise DataError(f"{what} must have shape (N,), got {tuple(labels.shape)}{advice}")
    return labels.to(torch.int64)


def histogram(images: Tensor) -> Tensor:
    """(C, 256) int64: how often each channel of ``images`` (uint8, (N, C, H, W)) takes each value.

    Histograms of parts of a data set add up to the histogram of all of it, exactly.
    """
    count = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for start in range(0, len(images), 4096):  # images may be larger than memory
        part = images[start : start + 4096]
        for channel in range(images.shape[1]):
            values = part[:, channel].reshape(-1).cpu()
            count[channel] += torch.bincount(values, minlength=256)
    return count


def from_histogram(count: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel in [0, 1] units, of a (C, 256) histogram; std is the population's."""
    value = torch.arange(256, dtype=torch.float64) / 255
    weight = count.double() / count.sum(1, keepdim=True).clamp(min=1)
    mean = (weight * value).sum(1)
    std = (weight * (value - mean[:, None]) ** 2).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel of ``images`` (uint8, (N, C, H, W)), in [0, 1] units."""
    return from_histogram(histogram(images))


def _rank_in_class(labels: Tensor, drawn: Tensor, count: Tensor) -> Tensor:
    """(N,) how many samples of its own class come before each sample in the order ``drawn``."""
    by_class = drawn[torch.argsort(labels[drawn], stable=True)]
    rank = torch.empty_like(labels)
    rank[by_class] = torch.arange(len(labels)) - (count.cumsum(0) - count)[labels[by_class]]
    return rank


def _quota(count: Tensor, n: int) -> Tensor:
    """(K,) how many of each class add up to ``n`` in proportion (Hamilton's method of largest remainders)."""
    total = max(int(count.sum()), 1)
    quota, remainder = n * count // total, n * count % total
    largest = torch.argsort(remainder, descending=True, stable=True)
    quota[largest[: n - int(quota.sum())]] += 1
    return quota


def draw(labels: Tensor, n: int, seed: int, purpose: str, proportional: bool = False) -> tuple[Tensor, Tensor]:
    """Divide the samples 0 .. N-1 into (kept, held), both in ascending order, with ``n`` of them in held.

    Every class gives the same number of samples to held, to within one, so long as that takes no more
    than half of the class; where it would, the larger classes make up for it. With ``proportional``,
    every class gives the same share of its samples instead, to within one.

    Args:
        labels: int64 tensor of shape (N,).
        n: 0 .. N.
        seed: the draw is named (seed, purpose) and depends on nothing else.
    """
    labels = labels.cpu()
    drawn = permutation(len(labels), seed, purpose)
    count = torch.bincount(labels)
    rank = _rank_in_class(labels, drawn, count)
    if proportional:
        depth = (rank >= _quota(count, n)[labels]).long()
    else:
        half_used = 2 * (rank + 1) > count[labels]  # such a sample comes after all first halves
        depth = rank + half_used * len(labels)
    order = drawn[torch.argsort(depth[drawn], stable=True)]  # equal depths, in different classes: as drawn
    return order[n:].sort().values, order[:n].sort().values
