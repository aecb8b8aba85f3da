"""A model's state, kept while strange models are tried: some change themselves when they are called."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """After the block all parameters and buffers of ``model``, and their ``.grad``, are what they were before.

    The same tensors with the same values, ``requires_grad`` included. What a module keeps elsewhere (in plain
    attributes) is its own affair.
    """
    tables: list[dict[str, Any]] = [
        table for module in model.modules() for table in (module._parameters, module._buffers)
    ]
    found = [dict(table) for table in tables]
    tensors = list({id(tensor): tensor for each in found for tensor in each.values() if tensor is not None}.values())
    values = [_Value(tensor) for tensor in tensors]
    try:
        yield
    finally:
        for table, before in zip(tables, found, strict=True):
            if _identities(table) != _identities(before):
                table.clear()
                table.update(before)
        for value in values:
            value.restore()


def _identities(table: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, id(tensor)) for name, tensor in table.items()]


def changed(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Names of the parameters and buffers that differ from ``before``, a copy of the state dict."""
    now = model.state_dict()
    return [name for name in before if name not in now or not _same(now[name], before[name])]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


class _Value:
    """One tensor as it was."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.copy = tensor, tensor.detach().clone()
        self.requires_grad, self.grad = tensor.requires_grad, tensor.grad
        self.grad_copy = None if self.grad is None else self.grad.detach().clone()

    @torch.no_grad()
    def restore(self) -> None:
        if not _same(self.tensor, self.copy):
            self.tensor.copy_(self.copy)
        if self.tensor.is_leaf:
            self.tensor.requires_grad_(self.requires_grad)
            self.tensor.grad = self.grad
        if self.grad is not None and self.grad_copy is not None and not _same(self.grad, self.grad_copy):
            self.grad.copy_(self.grad_copy)
