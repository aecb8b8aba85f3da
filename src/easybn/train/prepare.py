"""What a training needs: data, device and model checked, the recipe's branches, and its batches."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from ..attacks.model_call import ModelFailed, checked_logits, logit_distance, one_line
from ..data.augment import AUGMENTATIONS
from ..data.source import Split
from ..keyed_random import Noise, number, permutation, torch_generators
from ..models.outputs import BadLogits
from ..modes import CannotCopy, copied, evaluating, is_sharded
from ..norm.branched import BranchedNorm
from ..norm.convert import branches_of, convert, strip
from ..recipes.recipe import Recipe
from .distributed import Processes
from .schedule import Training


def as_split(data: Split | tuple[Tensor, Tensor]) -> Split:
    """``data`` as a Split; a pair is images uint8 (N, C, H, W) and labels int64 (N,). ValueError if it is empty."""
    split = data if isinstance(data, Split) else Split(*data)
    if not len(split):
        raise ValueError("no images to train on")
    return split


def check_labels(split: Split, classes: int) -> None:
    """ValueError unless all labels are in 0 .. classes - 1."""
    low, high = (int(label) for label in split.labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in 0 .. {classes - 1} for {classes} logits, got {low} .. {high}")


def usable_device(device: torch.device | str) -> torch.device:
    """``device``, or ValueError if this machine has no such device."""
    if str(device).partition(":")[0] == "meta":
        raise ValueError("device 'meta' computes nothing: give cpu or cuda")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error


def with_branches(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of ``model`` with the recipe's branches; with a warning the model itself, if it cannot be copied.

    Raises:
        ValueError: it has other branches, lazy layers that have not seen a batch yet, or parameters that are split
            over processes.
    """
    if is_sharded(model):
        raise ValueError("the model's parameters are split over processes: give fit a plain model, or loop yourself")
    try:
        new = copied(model)
    except CannotCopy as error:
        warnings.warn(f"{error}: it is trained in place, which changes it", stacklevel=3)
        new = model
    if any(isinstance(module, LazyModuleMixin) and module.has_uninitialized_params() for module in new.modules()):
        raise ValueError("a lazy layer has no parameters to train yet: run one batch through the model first")
    if any(isinstance(module, BranchedNorm) for module in new.modules()):
        if branches_of(new) != recipe.branches:
            raise ValueError(
                f"the model has branches {branches_of(new)}, {type(recipe).__name__} wants {recipe.branches}"
            )
        return new
    return convert(new, recipe.branches, inplace=True) if len(recipe.branches) > 1 else new


@dataclass(frozen=True)
class InputFormat:
    """The form in which a model needs its images.

    Args:
        layout: memory format of the images and the weights.
        writes_to_input: whether the model modifies its input in place.
        classes: number of logits; None if it is not known.
        notes: what is unusual, one sentence each.
    """

    layout: torch.memory_format
    writes_to_input: bool
    classes: int | None = None
    notes: tuple[str, ...] = ()


def find_input_format(
    model: nn.Module, train: Split, batch_size: int, channels_last: bool, device: torch.device, autocast: Any
) -> InputFormat:
    """Try ``model`` on four training images, see :func:`try_input_format`; on a full batch if it fails on so few."""

    def images(n: int) -> tuple[Tensor, Tensor]:
        x, y = train.batch(torch.arange(n))
        return x.to(device), y.to(device)

    few = min(4, batch_size)
    try:
        return try_input_format(model, *images(few), channels_last, autocast)
    except (ModelFailed, BadLogits):
        if few == batch_size:
            raise
        return try_input_format(model, *images(batch_size), channels_last, autocast)


def try_input_format(model: nn.Module, x: Tensor, y: Tensor, channels_last: bool, autocast: Any = None) -> InputFormat:
    """Which form of images ``model`` works with, tried on a copy of it in train mode, forward and backward.

    Args:
        model: on the device of ``x``; the model and torch's random state are unchanged afterwards.
        x: some training images (n, C, H, W).
        y: their labels.
        channels_last: whether that layout is preferred; the contiguous one is used if the model fails with it, or
            gives other logits.
        autocast: what the training runs under.

    Raises:
        ModelFailed: the model fails in either layout, or nothing in it can be trained.
        BadLogits: it does not return logits.
    """
    preferred = torch.channels_last if channels_last else torch.contiguous_format
    with torch_generators([x.device] if x.device.type == "cuda" else []):
        try:
            first = _try_layout(model, x, y, preferred, autocast)
        except CannotCopy:  # nothing can be tried: use what works for every model
            return InputFormat(torch.contiguous_format, True)
        if preferred == torch.contiguous_format:
            if isinstance(first, ModelFailed):
                raise first
            return first
        contiguous = _try_layout(model, x, y, torch.contiguous_format, autocast)
        if isinstance(first, ModelFailed):
            if isinstance(contiguous, ModelFailed):
                raise contiguous
            why = one_line(first)
        else:
            if isinstance(contiguous, ModelFailed):
                return first
            if first.differentiable or not contiguous.differentiable:
                if not _layout_changes_logits(first, contiguous, model, x, y, autocast):
                    return first
                why = "their order in memory changes its logits"
            else:
                why = "it has no gradient there"
    note = f"the model does not work on channels-last images ({why}): it gets contiguous ones"
    return replace(contiguous, notes=(note,))


@dataclass(frozen=True)
class _Trial(InputFormat):
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    differentiable: bool = True  # with respect to the images, which vanilla training does not need


def _try_layout(
    model: nn.Module, x: Tensor, y: Tensor, layout: torch.memory_format, autocast: Any
) -> "_Trial | ModelFailed":
    new = copied(model).to(memory_format=layout).train()
    writes = _forward_and_backward(new, x.detach().requires_grad_(), y, layout, autocast)
    differentiable = not isinstance(writes, Exception)
    if not differentiable:
        writes = _forward_and_backward(new, x, y, layout, autocast)
    try:
        if isinstance(writes, Exception):
            raise writes
        with evaluating(new), torch.no_grad():
            logits = checked_logits(new(x.clone(memory_format=layout)), len(x))
    except BadLogits:
        raise
    except Exception as error:
        failed = ModelFailed(f"the model fails in training on images of shape {tuple(x.shape)}: {one_line(error)}")
        failed.__cause__ = error
        return failed
    return _Trial(layout, writes, logits.shape[1], logits=logits.double(), differentiable=differentiable)


def _forward_and_backward(
    model: nn.Module, x: Tensor, y: Tensor, layout: torch.memory_format, autocast: Any
) -> bool | Exception:
    """Whether the model writes into its input, or the exception it raises."""
    given = x.clone(memory_format=layout)
    version = given._version
    try:
        with autocast if autocast is not None else nullcontext():
            logits = checked_logits(model(given), len(x))
        writes = given._version != version or not torch.equal(given, x)
        F.cross_entropy(logits.float(), y.clamp(0, logits.shape[1] - 1)).backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        return error
    return writes


def _layout_changes_logits(
    first: "_Trial", contiguous: "_Trial", model: nn.Module, x: Tensor, y: Tensor, autocast: Any
) -> bool:
    """Whether the logits differ between layouts, and not just from one pass to the next in the same layout."""
    bound = 1e-3 if autocast is None else 5e-2
    if logit_distance(contiguous.logits, first.logits) <= bound:
        return False
    again = _try_layout(model, x, y, torch.contiguous_format, autocast)
    return not isinstance(again, ModelFailed) and logit_distance(contiguous.logits, again.logits) <= bound


class CopiesInput(nn.Module):
    """Passes a copy of its input on to a model that modifies it in place: recipes use a batch more than once."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training: bool = model.training

    def forward(self, x: Tensor) -> Any:
        return self.model(x.clone())


def deployable(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A plain copy of the trained ``model`` in eval mode; with a warning the model itself, if it cannot be copied."""
    try:
        return (strip(model, recipe.branches[0]) if len(recipe.branches) > 1 else copied(model)).eval()
    except CannotCopy as error:
        warnings.warn(
            f"{error}: the result is the trained model itself, without a second one that keeps its branches",
            stacklevel=3,
        )
        return (strip(model, recipe.branches[0], inplace=True) if len(recipe.branches) > 1 else model).eval()


def compile_model(model: nn.Module) -> nn.Module:
    """``model`` compiled by torch.compile, one graph for each batch size and branch that a recipe uses.

    Every other compiled function of the process is compiled again at its next call.
    """
    # graphs are cached by code object, for all models together: without this about the fifth training in a process
    # would exceed the compiler's cache limit, and silently run uncompiled
    torch.compiler.reset()
    # a recipe uses the same few batch sizes in every step: a graph for any size would be slower
    return cast(nn.Module, torch.compile(model, dynamic=False))


def autocast_for(precision: str, device: torch.device) -> torch.autocast | None:
    """The autocast context of a ``Training.precision``; None for "32"."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, dtypes[precision]) if precision in dtypes else None


@contextmanager
def seeded(seed: int, step: int, device: torch.device, rank: int = 0) -> Iterator[None]:
    """Seed torch's global generators, which dropout and the like draw from, for one step; restored afterwards.

    Args:
        rank: of the process; others draw other numbers.
    """
    purpose = f"global, process {rank}" if rank else "global"
    with torch_generators([device] if device.type == "cuda" else [], number(seed, purpose, step)):
        yield


# The batches of a training: images chosen, cropped and flipped, on the device if they are kept there.

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
        processes: that share each batch; this one gets its part.

    Raises:
        ValueError: there are fewer images in a batch than processes.
    """

    def __init__(
        self,
        split: Split,
        training: Training,
        size: int,
        device: torch.device,
        layout: torch.memory_format,
        processes: Processes = Processes(),
    ) -> None:
        if size < processes.count:
            raise ValueError(f"a batch of {size} images cannot be shared by {processes.count} processes")
        self._split, self._size, self._device, self._layout = split, size, device, layout
        self._share = processes.share(size)
        self._seed, self._augment = training.seed, training.augment
        self._order, self._order_epoch = torch.empty(0), -1

    @property
    def per_epoch(self) -> int:
        """Full batches per epoch."""
        return len(self._split) // self._size

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The batch of a step, or this process's share of it.

        Returns:
            x: float32 of shape (N, C, H, W) in [0, 1].
            y: int64 of shape (N,).
            ids: int64 of shape (N,), the images' indices in the training set.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._order_epoch:
            self._order = permutation(len(self._split), self._seed, "order", epoch, self._split.device)
            self._order_epoch = epoch
        ids = self._order[position * self._size : (position + 1) * self._size][self._share]
        pixels, y = self._split.pixels(ids), self._split.labels.index_select(0, ids.to(self._split.labels.device))
        pixels, y, ids = (self._to_device(part) for part in (pixels, y, ids))
        if self._augment != "none":  # of bytes: a quarter of the memory traffic of floats
            pixels = AUGMENTATIONS[self._augment](pixels, Noise.of(self._seed, "augment", ids, step))
        return pixels.float().div_(255).contiguous(memory_format=self._layout), y, ids

    def _to_device(self, part: Tensor) -> Tensor:
        if part.device.type == "cpu" and self._device.type == "cuda":
            part = part.pin_memory()  # only copies from pinned memory do not block
        return part.to(self._device, non_blocking=True)
