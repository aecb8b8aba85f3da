"""What a training needs before its first step: data, device, a model with the recipe's branches."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from ..attacks.calling import BadLogits, ModelFailed, checked_logits, sentence
from ..attacks.equivalence import logit_distance
from ..copying import CannotCopy, copied
from ..data.source import Split
from ..keyed_random import number, torch_generators
from ..modes import evaluating
from ..norm.branched import BranchedNorm
from ..norm.convert import branches_of, convert, strip
from ..recipes.recipe import Recipe


def check_labels(split: Split, classes: int) -> None:
    """ValueError unless all labels are among 0 .. classes - 1."""
    low, high = (int(label) for label in split.labels.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in 0 .. {classes - 1} for {classes} logits, got {low} .. {high}")


def as_split(data: Split | tuple[Tensor, Tensor]) -> Split:
    """A Split, or a pair of images uint8 (N, C, H, W) and labels int64 (N,), as a Split; ValueError if empty."""
    split = data if isinstance(data, Split) else Split(*data)
    if not len(split):
        raise ValueError("no images to train on")
    return split


def usable(device: torch.device | str) -> torch.device:
    """The device; ValueError if there is none such here."""
    if str(device).partition(":")[0] == "meta":
        raise ValueError("device 'meta' computes nothing: give cpu or cuda")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error


def with_branches(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of ``model`` with the recipe's branches; with a warning the model itself, if it refuses to be copied.

    Raises:
        ValueError: it has other branches, or lazy layers that have not seen a batch yet.
    """
    try:
        new = copied(model)
    except CannotCopy as error:
        warnings.warn(f"{error}: it is trained in place, and no longer what it was", stacklevel=3)
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
class Taken:
    """How a model takes the images of a training.

    Args:
        layout: of the images and the weights in memory.
        writes: whether it writes into its input.
        classes: number of logits.
        notes: what is unusual, a sentence each.
    """

    layout: torch.memory_format
    writes: bool
    classes: int | None = None
    notes: tuple[str, ...] = ()


def taken(model: nn.Module, x: Tensor, y: Tensor, channels_last: bool, autocast: Any = None) -> Taken:
    """Before the first step: how ``model`` takes images, tried on a copy of it in train mode, forward and backward.

    Args:
        model: on the device of ``x``; it and torch's random state are left as they are.
        x: some images as they are trained on, (n, C, H, W); y: their labels.
        channels_last: whether that layout is asked for; the contiguous one is taken where the model fails in it, or
            says something else.
        autocast: that the training runs under.

    Raises:
        ModelFailed: the model fails in either layout, or nothing in it can be trained.
        BadLogits: it does not return logits.
    """
    asked = torch.channels_last if channels_last else torch.contiguous_format
    with torch_generators([x.device] if x.device.type == "cuda" else []):
        try:
            first = _passed(model, x, y, asked, autocast)
        except CannotCopy:  # nothing is known of it then: what works for every model
            return Taken(torch.contiguous_format, True)
        if asked == torch.contiguous_format:
            if isinstance(first, ModelFailed):
                raise first
            return first
        other = _passed(model, x, y, torch.contiguous_format, autocast)
        if isinstance(first, ModelFailed):
            if isinstance(other, ModelFailed):
                raise other
            why = sentence(first)
        else:
            if isinstance(other, ModelFailed):
                return first
            if first.differentiable or not other.differentiable:
                if not _differ(first, other, model, x, y, autocast):
                    return first
                why = "their order in memory changes its logits"
            else:
                why = "it has no gradient there"
    return replace(other, notes=(f"the model does not work on channels-last images ({why}): it gets contiguous ones",))


def taken_in_training(
    model: nn.Module, train: Split, batch_size: int, channels_last: bool, device: torch.device, autocast: Any
) -> Taken:
    """:func:`taken` on four images; on a whole batch, where the model fails on so few."""

    def images(n: int) -> tuple[Tensor, Tensor]:
        x, y = train.batch(torch.arange(n))
        return x.to(device), y.to(device)

    few = min(4, batch_size)
    try:
        return taken(model, *images(few), channels_last, autocast)
    except (ModelFailed, BadLogits):
        if few == batch_size:
            raise
        return taken(model, *images(batch_size), channels_last, autocast)


@dataclass(frozen=True)
class _Pass(Taken):
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    differentiable: bool = True  # with respect to the images, which vanilla training does not need


def _differ(first: "_Pass", other: "_Pass", model: nn.Module, x: Tensor, y: Tensor, autocast: Any) -> bool:
    """Whether the layout changes the logits, and another pass in the same one does not."""
    bound = 1e-3 if autocast is None else 5e-2
    if logit_distance(other.logits, first.logits) <= bound:
        return False
    again = _passed(model, x, y, torch.contiguous_format, autocast)
    return not isinstance(again, ModelFailed) and logit_distance(other.logits, again.logits) <= bound


def _passed(
    model: nn.Module, x: Tensor, y: Tensor, layout: torch.memory_format, autocast: Any
) -> "_Pass | ModelFailed":
    new = copied(model).to(memory_format=layout).train()
    error = _backward(new, x.detach().requires_grad_(), y, layout, autocast)
    differentiable = not isinstance(error, Exception)
    writes = error if not isinstance(error, Exception) else _backward(new, x, y, layout, autocast)
    try:
        if isinstance(writes, Exception):
            raise writes
        with evaluating(new), torch.no_grad():
            logits = checked_logits(new(x.clone(memory_format=layout)), len(x))
    except BadLogits:
        raise
    except Exception as error:
        failed = ModelFailed(f"the model fails in training on images of shape {tuple(x.shape)}: {sentence(error)}")
        failed.__cause__ = error
        return failed
    return _Pass(layout, writes, logits.shape[1], logits=logits.double(), differentiable=differentiable)


def _backward(model: nn.Module, x: Tensor, y: Tensor, layout: torch.memory_format, autocast: Any) -> bool | Exception:
    """A forward and a backward pass: whether the model writes into its input, or what it raises."""
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


class OnCopies(nn.Module):
    """A model that writes into its input, given a copy: recipes use a batch more than once."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Any:
        return self.model(x.clone())


def deployed(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A plain copy of the trained ``model`` in eval mode; with a warning the model itself if that cannot be copied."""
    try:
        return (strip(model, recipe.branches[0]) if len(recipe.branches) > 1 else copied(model)).eval()
    except CannotCopy as error:
        warnings.warn(
            f"{error}: the result is the trained model itself, and there is no other with branches", stacklevel=3
        )
        return (strip(model, recipe.branches[0], inplace=True) if len(recipe.branches) > 1 else model).eval()


def compiled(model: nn.Module) -> nn.Module:
    """``model`` by torch.compile, a graph for each way that a recipe's batches go through it.

    Every other compiled function of the process is compiled again when it is called next.
    """
    # graphs are kept by code object, all models' together: without this the fifth training or so of a process
    # would pass the compiler's limit, and silently run uncompiled
    torch.compiler.reset()
    # a recipe's batches have a size each, in every step: a graph for any size would be a slower one
    return cast(nn.Module, torch.compile(model, dynamic=False))


def autocasting(precision: str, device: torch.device) -> torch.autocast | None:
    """The autocast of a ``Training.precision``; None for "32"."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.autocast(device.type, kinds[precision]) if precision in kinds else None


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """torch's global generators, from which dropout and the like draw, seeded for a step."""
    with torch_generators([device] if device.type == "cuda" else [], number(seed, "global", step)):
        yield
