"""Recipes: a recipe is a frozen dataclass that, called with a model and a batch, yields its losses one by one."""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..keyed_random import Noise
from ..modes import SettingsOfBackward, evaluating, frozen_stats
from ..norm.convert import branch_parameters
from ..norm.fold import folding
from ..norm.route import route
from ..perturb.pgd import finite_or_zero
from ..rows import check_colours

Mode = Literal["eval", "train"]
"""The mode of the model while a perturbation is made; in train mode too, running statistics do not change."""


class Term(NamedTuple):
    """One loss of a recipe.

    Args:
        name: for logs; usually the branch's name.
        loss: float32 (or float64) scalar with a graph, a mean over its images.
        weight: its factor in the training loss.
        logits: (N, K) of the forward pass, for accuracies.
        labels: (N,) the true classes.
    """

    name: str
    loss: Tensor
    weight: float = 1.0
    logits: Tensor | None = None
    labels: Tensor | None = None

    @classmethod
    def cross_entropy(cls, name: str, logits: Tensor, y: Tensor, weight: float, label_smoothing: float = 0.0) -> "Term":
        """The mean cross-entropy of ``logits`` (N, K) for ``y`` (N,), in float32 also under autocast.

        Of float64 logits it is float64.
        """
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(wide, y, label_smoothing=label_smoothing)
        return cls(name, loss, weight, logits.detach(), y)


@dataclass(frozen=True)
class Context:
    """What a recipe gets beside model and batch, to draw noise from.

    The default works in any loop: noise comes from torch's global generator. With ``ids`` it is a function of (seed,
    purpose, step, id) alone.

    Args:
        ids: (N,) int64, the samples' indices in the data set.
        step: number of optimiser steps before this one.
        epoch: number of epochs before this one.
        seed: of the run.
    """

    ids: Tensor | None = None
    step: int = 0
    epoch: int = 0
    seed: int = 0

    def noise(self, purpose: str) -> Noise | None:
        """The batch's random streams for ``purpose``; None means: draw from torch's global generator."""
        return None if self.ids is None else Noise.of(self.seed, purpose, self.ids, self.step)


class Recipe(ABC):
    """A training method as a generator of losses.

    ``branches`` names the model's branches, the deployed one first; with a single one the model stays plain. The
    caller calls ``backward()`` on each term's weighted loss *as it is yielded*, so that one graph is alive at a time,
    and takes the optimiser's step when the generator has ended. After a yield the recipe may read ``x.grad``. Yield
    terms inside ``route``, since activation checkpointing computes the forward pass again in ``backward()``.

    How tables and the report show a recipe are class fields too: ``label`` (by default the class's name),
    ``colour`` (on light and on dark pages; by default one that is free) and ``order`` (smaller comes first;
    the package's own are below 100).
    """

    branches: ClassVar[tuple[str, ...]] = ("main",)
    label: ClassVar[str] = ""
    colour: ClassVar[tuple[str, str] | None] = None
    order: ClassVar[int] = 100

    def __init_subclass__(cls) -> None:
        """ValueError unless ``colour`` is a pair of colours."""
        super().__init_subclass__()
        check_colours(f"{cls.__name__}.colour", cls.colour)

    @classmethod
    def appearance(cls) -> dict[str, Any]:
        """How tables and the report show this recipe; a run's config.json stores it: label, colour and order."""
        return {
            "label": cls.label or cls.__name__,
            "colour": None if cls.colour is None else list(cls.colour),
            "order": cls.order,
        }

    def __post_init__(self) -> None:
        """ValueError for a weight that is not finite, or a label smoothing outside [0, 1)."""
        for name, value in vars(self).items():
            if name == "label_smoothing" and not 0 <= value < 1:
                raise ValueError(f"label_smoothing must be in [0, 1), got {value}")
            if name.endswith("weight") and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Iterator[Term]: ...

    def total(self, model: nn.Module, x: Tensor, y: Tensor, ctx: Context = Context()) -> Tensor:
        """The weighted sum of all terms as one loss, for trainers that call ``backward()`` themselves.

        Its gradients are those of the terms one by one. The graphs of all terms are alive at once, so that a step
        needs the memory of as many forward passes. With activation checkpointing each term is computed again in
        the modes and through the branch that it had, if the model is on one device.

        Returns:
            A scalar with a graph; call ``backward()`` on it once.

        Raises:
            NeedsBackward: the recipe reads or rescales gradients between its terms (EBNShared, FastAdvProp, FastEBN).
        """
        losses = []
        outside = SettingsOfBackward(model)
        try:
            for term in self(model, x, y, ctx):
                loss = term.loss * term.weight
                outside.keep_for(loss)
                losses.append(loss)
        except NeedsBackward as error:
            raise NeedsBackward(f"{type(self).__name__} cannot be one loss: {error}") from None
        return functools.reduce(torch.add, losses)


class NeedsBackward(RuntimeError):
    """A recipe uses the gradients of a term, and there has been no backward pass."""

    def __init__(self, message: str = "it needs backward() on each term as it is yielded, before the next one"):
        super().__init__(message)


@contextmanager
def perturbing(model: nn.Module, branch: str | None = None, mode: Mode = "eval") -> Iterator[None]:
    """Inside the block, the model is set up for perturbing: through ``branch``, in ``mode``, statistics fixed."""
    with ExitStack() as stack:
        if branch is not None:
            stack.enter_context(route(model, branch))
        if mode == "eval":
            stack.enter_context(evaluating(model))
            stack.enter_context(folding(model))
        else:
            stack.enter_context(frozen_stats(model))
        yield


def leaf_copy(model: nn.Module, x: Tensor) -> Tensor:
    """The tensor to call ``model`` with so that ``x.grad`` is set, even if the model writes into its input: a copy.

    A compiled model gets ``x`` itself, since the compiler warns about tensors that are not leaves.
    """
    return x if hasattr(model, "_orig_mod") else x.clone()


def shared_gradient(x: Tensor) -> Tensor:
    """(N, ...) ``x.grad``, as a term's backward pass left it; 0 for samples where it is not finite.

    Raises:
        NeedsBackward: a RuntimeError; there has been no backward pass.
    """
    if x.grad is None:
        raise NeedsBackward
    return finite_or_zero(x.grad)[0]


@contextmanager
def rebalanced(model: nn.Module, reached: Mapping[str, int]) -> Iterator[None]:
    """For branches with different numbers of samples: divide each parameter's gradient by the number that reached it.

    Inside the block, losses are to be sums over samples divided by the number of *all* samples. That is right for the
    shared parameters. A branch's own parameters see its samples only, so after the block their gradients are
    multiplied by (number of all samples) / (number of the branch's). Gradients from before the block are added
    unchanged, so that they can accumulate over batches. A factor of the loss, such as fp16's scale, has no effect.

    Args:
        model: a converted model, or a wrapper around one (``torch.compile``).
        reached: {branch: number of samples that pass through it}; a branch with 0 is not changed.

    Raises:
        ValueError: the model has no branches, or none of that name.
        NeedsBackward: there has been no backward pass inside the block.

    Source: Fast AdvProp (Mei et al. 2022).
    """
    total = sum(reached.values())
    factors = {p: total / n for branch, n in reached.items() if n for p in branch_parameters(model, branch)}
    earlier = {p: p.grad for p in factors if p.grad is not None}
    for parameter in earlier:
        parameter.grad = None
    try:
        yield
        if any(p.requires_grad for p in factors) and all(p.grad is None for p in factors):
            raise NeedsBackward
    finally:
        for parameter, factor in factors.items():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
            if (before := earlier.get(parameter)) is not None:
                parameter.grad = before if parameter.grad is None else before.add_(parameter.grad)
