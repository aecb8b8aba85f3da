"""Deep copies of models, also of those that keep an activation, a lock or a generator in an attribute."""

import copy
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn

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
        CannotCopy: a module in it defines how it is copied, and fails.
    """
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
