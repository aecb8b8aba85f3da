"""What a training needs before its first step: data, device, a model with the recipe's branches."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ..data.source import Split
from ..keyed_random import Noise, torch_generators
from ..norm.branched import BranchedNorm
from ..norm.convert import branches_of, convert
from ..recipes.recipe import Recipe


def as_split(data: Split | tuple[Tensor, Tensor]) -> Split:
    """A Split, or a pair of images uint8 (N, C, H, W) and labels int64 (N,), as a Split; ValueError if empty."""
    split = data if isinstance(data, Split) else Split(*data)
    if not len(split):
        raise ValueError("no images to train on")
    return split


def usable(device: torch.device | str) -> torch.device:
    """The device; ValueError if there is none such here."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error


def with_branches(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of ``model`` with the recipe's branches; ValueError if it has others."""
    if any(isinstance(module, BranchedNorm) for module in model.modules()):
        if branches_of(model) != recipe.branches:
            raise ValueError(
                f"the model has branches {branches_of(model)}, {type(recipe).__name__} wants {recipe.branches}"
            )
        return copy.deepcopy(model)
    return convert(model, recipe.branches) if len(recipe.branches) > 1 else copy.deepcopy(model)


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
    number = int(Noise.of(seed, "global", torch.zeros(1, dtype=torch.int64), step).bits(1))
    with torch_generators([device] if device.type == "cuda" else [], number):
        yield
