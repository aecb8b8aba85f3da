"""A user's model used without changing it: modes that restore exactly what was set before, and deep copies.

Those of a model set each module's flag directly rather than calling ``train()`` and ``eval()``: a module that a user
froze in eval mode is still frozen afterwards.
"""

import copy
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of ``model`` is in eval mode inside the block, and in its own mode again afterwards."""
    in_training = [module for module in model.modules() if module.training]
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


@contextmanager
def frozen_stats(model: nn.Module) -> Iterator[None]:
    """No running statistic of ``model`` changes inside the block, whatever the mode.

    Batch norms in train mode still normalise by the batch. They are frozen through
    ``track_running_stats`` rather than momentum 0, which would still advance ``num_batches_tracked``.
    """
    batch_norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    # an instance norm reads track_running_stats to choose its statistics, and counts no batches
    instance_norms = [(m, m.momentum) for m in model.modules() if isinstance(m, _InstanceNorm)]
    for module in batch_norms:
        module.track_running_stats = False
    for instance_norm, _ in instance_norms:
        instance_norm.momentum = 0.0
    try:
        yield
    finally:
        for module in batch_norms:
            module.track_running_stats = True
        for instance_norm, momentum in instance_norms:
            instance_norm.momentum = momentum


class SettingsOfBackward:
    """Sets a model's modes for each of several losses again when its backward pass begins.

    Activation checkpointing computes the forward pass again in the backward pass, as the modules are set then. Where
    one backward pass is that of several losses, each is to find the modes, branches and frozen statistics that it was
    computed with. torch's engine goes through the graphs one by one, the last made first, as long as they are on one
    device. Afterwards all is set as before.
    """

    NAMES = ("training", "active", "track_running_stats", "momentum")

    def __init__(self, model: nn.Module) -> None:
        self.modules: list[nn.Module] = list(model.modules())
        self._outside: list[dict[str, Any]] | None = None

    def keep_for(self, loss: Tensor) -> None:
        """``loss`` has a graph of its own, made with the present settings."""
        settings = self._read()
        tensor: Any = loss
        if tensor.requires_grad:
            tensor.register_hook(lambda _: self._enter(settings))

    def _enter(self, settings: list[dict[str, Any]]) -> None:
        if self._outside is None:
            self._outside = self._read()
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self._leave)  # called when the whole backward pass has ended
        self._write(settings)

    def _leave(self) -> None:
        outside, self._outside = self._outside, None
        if outside is not None:
            self._write(outside)

    def _read(self) -> list[dict[str, Any]]:
        return [{name: vars(module)[name] for name in self.NAMES if name in vars(module)} for module in self.modules]

    def _write(self, settings: list[dict[str, Any]]) -> None:
        for module, values in zip(self.modules, settings, strict=True):
            for name, value in values.items():
                if vars(module)[name] != value:
                    setattr(module, name, value)


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No parameter of ``model`` requires a gradient inside the block; afterwards those that did require it again.

    Used where only the images' gradient is needed. torch's own layers compute no other then; a backward pass made by
    ``torch.compile``, or written in Python (``models/convolutions.py``), computes one for every tensor that required
    it in the forward pass, used or not.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad = True


@contextmanager
def full_float32() -> Iterator[None]:
    """Products and convolutions of float32 keep its 24 bits on every device inside the block.

    On a GPU torch's convolutions use TF32 by default, of 11 bits: a logit then differs by 1e-3 from batch to batch, and
    neither a verdict nor the comparison of two models means what it says.
    """
    backends: Any = torch.backends
    try:
        before = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:  # the caller has used torch's newer settings, which the older ones cannot express
        parts = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
        found = [part.fp32_precision for part in parts]
        for part in parts:
            part.fp32_precision = "ieee"
        try:
            yield
        finally:
            for part, precision in zip(parts, found, strict=True):
                part.fp32_precision = precision
    else:
        backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            backends.cudnn.allow_tf32, precision = before
            torch.set_float32_matmul_precision(precision)


@contextmanager
def repeatable_convolutions() -> Iterator[None]:
    """Inside the block a GPU's convolutions give the same bits every time: cuDNN uses deterministic algorithms only."""
    backends: Any = torch.backends
    before = backends.cudnn.deterministic
    backends.cudnn.deterministic = True
    try:
        yield
    finally:
        backends.cudnn.deterministic = before


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """After the block all parameters and buffers of ``model``, and their ``.grad``, are as before.

    For models that change themselves when they are called. The tensors are the same objects with the same values,
    ``requires_grad`` included. What a module stores elsewhere, in plain attributes, is not restored.
    """
    tables: list[dict[str, Any]] = [
        table for module in model.modules() for table in (module._parameters, module._buffers)
    ]
    before = [dict(table) for table in tables]
    tensors = list({id(tensor): tensor for table in before for tensor in table.values() if tensor is not None}.values())
    values = [_Value(tensor) for tensor in tensors]
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            if _identities(table) != _identities(entries):
                table.clear()
                table.update(entries)
        for value in values:
            value.restore()


def _identities(table: dict[str, Any]) -> list[tuple[str, int]]:
    return [(name, id(tensor)) for name, tensor in table.items()]


def changed(model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Names of the parameters and buffers that differ from ``before``, a copy of the state dict."""
    now = model.state_dict()
    return [name for name in before if name not in now or not _same(now[name], before[name])]


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of ``model`` are split over processes, as torch's FSDP2 does it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who has split a model has imported it
    # between a forward and a backward pass they are whole, though not to be touched
    if fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in model.modules()):
        return True
    return any(hasattr(parameter, "placements") for parameter in model.parameters())


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


class _Value:
    """A tensor's value, ``requires_grad`` and ``.grad`` as they were."""

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


# Deep copies of models, also of those that keep an activation, a lock or a generator in an attribute.

M = TypeVar("M", bound=nn.Module)


class CannotCopy(TypeError, ValueError):
    """A module whose class defines how it is copied, and fails."""


def copied(model: M, memo: dict[int, Any] | None = None) -> M:
    """A deep copy of ``model``, also of one that ``copy.deepcopy`` refuses.

    Tensors in its attributes that are the result of a computation (``self.features = relu(x)``, the weight of
    ``torch.nn.utils.weight_norm``) are copied without their graph. What cannot be copied, such as a lock, a generator
    or an open file, is shared by the copy and the original.

    Args:
        model: left as it is.
        memo: as in ``copy.deepcopy``, for several copies that share what they have in common.

    Raises:
        CannotCopy: a module in it defines how it is copied, and fails; parameters are split over processes.
    """
    if is_sharded(model):
        raise CannotCopy("the model's parameters are split over processes: gather them, and use a plain model")
    memo = {} if memo is None else memo
    trial = dict(memo)
    try:
        made = copy.deepcopy(model, trial)
    except Exception:  # of any kind: what prevents it is searched for below
        trial = dict(memo)
        for tensor in _tensors(model):
            if not tensor.is_leaf:
                trial[id(tensor)] = tensor.detach().clone()
        _share_uncopyable(model, trial)
        made = copy.deepcopy(model, trial)
    memo.update(trial)
    return made


def _tensors(root: Any) -> Iterator[Tensor]:
    """Every tensor that can be reached from ``root``, each once."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        for child in _children(value):
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)


def _share_uncopyable(root: nn.Module, memo: dict[int, Any]) -> None:
    """Enter into ``memo``, as themselves, the objects below ``root`` that cannot be copied, as few as possible."""
    while error := _error(root, memo):
        failing = _failing(root, memo)
        # the cause is an object that fails though all that it refers to can be copied; what only contains it is not
        guilty = [value for value in failing.values() if not any(id(child) in failing for child in _children(value))]
        if not guilty or any(isinstance(value, nn.Module) for value in guilty):
            name = type(guilty[0] if guilty else root).__name__
            why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            raise CannotCopy(f"a {name} cannot be copied: {why}") from error
        memo.update((id(value), value) for value in guilty)


def _failing(root: Any, memo: dict[int, Any]) -> dict[int, Any]:
    """Every object on the way from ``root`` to what cannot be copied, by id."""
    failing, waiting = {id(root): root}, [root]
    while waiting:
        for child in _children(waiting.pop()):
            if id(child) not in failing and id(child) not in memo and _error(child, memo):
                failing[id(child)] = child
                waiting.append(child)
    return failing


def _error(value: Any, memo: dict[int, Any]) -> Exception | None:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception as error:
        return error
    return None


def _children(value: Any) -> list[Any]:
    """What ``copy.deepcopy`` would copy along with ``value``."""
    if isinstance(value, (type, ModuleType, FunctionType, BuiltinFunctionType, str, bytes, int, float)):
        return []
    children = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, dict):
        children += [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        children += list(value)
    elif isinstance(value, MethodType):
        children += [value.__self__]
    elif isinstance(value, partial):
        children += [value.func, *value.args, *value.keywords.values()]
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names = [slots] if isinstance(slots, str) else slots
        children += [getattr(value, name) for name in names if hasattr(value, name)]
    return children
