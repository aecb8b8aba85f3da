"""Gradients by the number of samples that reached a parameter, where the branches see different numbers of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from ..norm.convert import branch_parameters


@contextmanager
def rebalanced(model: nn.Module, reached: Mapping[str, int]) -> Iterator[None]:
    """After the block, each parameter's gradient is divided by the number of samples that reached it.

    In the block, losses are sums over samples divided by the number of *all* samples. That is right for the
    shared parameters, of whatever kind; a branch's own parameters saw its samples alone, so their gradients
    are multiplied by all / its number. Gradients from before the block are left out of this and kept, so
    that they may accumulate over batches. A factor of the loss, such as fp16's scale, passes through.

    Args:
        model: a converted model, or a wrapper around one (``torch.compile``).
        reached: {branch: number of samples that pass through it}; a branch with 0 is left alone.

    Raises:
        ValueError: the model has no branches, or none of that name.

    Source: Fast AdvProp (Mei et al. 2022).
    """
    total = sum(reached.values())
    factors = {p: total / n for branch, n in reached.items() if n for p in branch_parameters(model, branch)}
    earlier = {p: p.grad for p in factors if p.grad is not None}
    for parameter in earlier:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, factor in factors.items():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
            if (before := earlier.get(parameter)) is not None:
                parameter.grad = before if parameter.grad is None else before.add_(parameter.grad)
