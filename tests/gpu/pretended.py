"""A CUDA device for machines that have none: it computes on the CPU, and refuses what a real one refuses.

A tensor on it says that it is on ``cuda:0``. An operation of such a tensor and one of the CPU raises the error that
torch raises for two devices, with its exceptions: numbers, copies, and indices on the CPU. ``numpy()`` raises too. What
makes the host wait for a real device is counted: ``item``, ``tolist``, ``bool``, a mask as an index, a copy to the CPU,
and one to the device unless it is ``non_blocking``.

The operations themselves are the CPU's: speed, rounding and kernels are for the tests on a real one.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing

import easybn

PACKAGE = Path(easybn.__file__).parent
aten = torch.ops.aten
DEVICE = torch.device("cuda", 0)
CROSSING = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}
MOVES = {Tensor.cpu: torch.device("cpu"), Tensor.cuda: DEVICE}


class OnDevice(Tensor):
    """A tensor on the pretended device; ``held`` is where its values are."""

    held: Tensor
    waits: ClassVar[Counter] = Counter()

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> "OnDevice":
        kept = {"dtype": held.dtype, "layout": held.layout, "device": held.device, "requires_grad": requires_grad}
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), **kept
        )
        made.held = held
        return made

    def __tensor_flatten__(self) -> Any:  # by this Module.to takes it for what it is
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> "OnDevice":
        return OnDevice(parts["held"])

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def get_device(self) -> int:
        return 0

    def __reduce_ex__(self, protocol: Any) -> Any:  # as it is loaded with map_location="cpu"
        return self.held.__reduce_ex__(protocol)

    def __repr__(self, **kwargs: Any) -> str:
        return f"OnDevice({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = OnDevice(self.held.clone(), self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return moved(
            func, args, dict(kwargs), lambda: super(OnDevice, cls).__torch_function__(func, types, args, kwargs)
        )

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in INDEXING and not isinstance(args[0], OnDevice):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        if func not in CROSSING:
            checked = (args[0], *args[2:]) if func in INDEXING else args
            if shapes := [*on_cpu(checked), *on_cpu(tuple(kwargs.values()))]:
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but found at least two, cuda:0 and cpu, "
                    f"in {func} ({shapes[0]} is on the CPU)"
                )
        masks = func in INDEXING and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])
        if func in INDEXING and any(isinstance(i, Tensor) and not isinstance(i, OnDevice) for i in args[1]):
            waited("copy to the device")
        if func in WAITING or masks:
            waited(str(func).removeprefix("aten.").removesuffix(".default"))
        if func is aten.copy_.default and not isinstance(args[0], OnDevice):
            waited("copy to the CPU")
        out = func(*inside(args), **inside(kwargs))
        if func is aten.copy_.default:
            return args[0]
        return return_and_correct_aliasing(func, args, kwargs, outside(out))


def waited(what: str) -> None:
    """Count a read by the host, by the line of easybn that asked for it."""
    frame = sys._getframe(1)
    while frame and not of_easybn(frame.f_code.co_filename):
        frame = frame.f_back
    where = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}:{frame.f_lineno}" if frame else "elsewhere"
    OnDevice.waits[f"{where} {what}"] += 1


@cache
def of_easybn(filename: str) -> bool:
    return PACKAGE in Path(filename).parents


# Arguments and results are tensors in tuples, lists and dictionaries, whatever the operation. These three are called
# at every operation, and torch's own tree_map takes most of a test's time.


def inside(value: Any) -> Any:
    """With the values of all tensors on the device in their place."""
    if isinstance(value, (tuple, list)):
        return type(value)([inside(each) for each in value])
    if isinstance(value, dict):
        return {name: inside(each) for name, each in value.items()}
    return value.held if isinstance(value, OnDevice) else value


def outside(value: Any) -> Any:
    """With all tensors put on the device."""
    if isinstance(value, (tuple, list)):
        return type(value)([outside(each) for each in value])
    return OnDevice(value) if isinstance(value, Tensor) and not isinstance(value, OnDevice) else value


def on_cpu(value: Any) -> list[tuple[int, ...]]:
    """The shapes of the tensors on the CPU, but for numbers."""
    if isinstance(value, (tuple, list)):
        return [shape for each in value for shape in on_cpu(each)]
    return [tuple(value.shape)] if isinstance(value, Tensor) and not isinstance(value, OnDevice) and value.dim() else []


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return OnDevice(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return _down(grad)


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Tensor:
        return x.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return OnDevice(grad)


def _down(x: Any) -> Tensor:
    waited("copy to the CPU")
    return _Down.apply(x)


def named_device(value: Any) -> torch.device | None:
    """The device that an argument of ``to`` names."""
    if isinstance(value, Tensor):
        return value.device
    if isinstance(value, torch.device):
        return value
    return torch.device(value) if isinstance(value, str) else None


def moved(func: Any, args: Any, kwargs: dict[str, Any], plainly: Callable[[], Any]) -> Any:
    """What ``func`` returns, on the pretended device where it is asked for one; else ``plainly()``."""
    if func is Tensor.tolist and isinstance(args[0], OnDevice):
        waited("tolist")
        return args[0].held.tolist()
    if func is Tensor.pin_memory:
        return args[0]
    if func in MOVES:
        return transferred(args[0], MOVES[func], kwargs.get("non_blocking", False))
    if func is Tensor.to:
        where = [found for v in (*args[1:], kwargs.get("device")) if (found := named_device(v)) is not None]
        if not where:
            return plainly()
        like = [v.dtype for v in args[1:] if isinstance(v, Tensor)]
        rest = [v for v in args[1:] if isinstance(v, torch.dtype)] + like
        others = {k: v for k, v in kwargs.items() if k in ("dtype", "copy", "memory_format")}
        x = transferred(args[0], where[0], kwargs.get("non_blocking", False) or any(v is True for v in args))
        return Tensor.to(x, *rest, **others) if rest or others else x
    if kwargs.get("device") is None:
        return plainly()
    wanted = torch.device(kwargs.pop("device"))
    made = func(*inside(args), **inside(kwargs))
    if wanted.type != "cuda":
        return made
    if func in (torch.tensor, torch.as_tensor, torch.asarray):
        waited("copy to the device")
    return OnDevice(made, made.requires_grad)


def transferred(x: Tensor, device: torch.device, non_blocking: bool) -> Tensor:
    if device.type == "cuda":
        if not isinstance(x, OnDevice) and not non_blocking:
            waited("copy to the device")
        return x if isinstance(x, OnDevice) else _Up.apply(x)
    return _down(x) if isinstance(x, OnDevice) else x


class _Generator(torch.Generator):
    def __new__(cls, device: Any = None) -> "_Generator":
        return super().__new__(cls, device="cpu")  # type: ignore[call-arg]


class _Factories(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return moved(func, args, dict(kwargs), lambda: func(*args, **kwargs))


@contextmanager
def pretended() -> Iterator[Counter]:
    """Inside the block there is a device "cuda"; yields the count of reads by the host, by what they were."""
    OnDevice.waits = Counter()
    autocast = torch.autocast
    with ExitStack() as stack:
        stack.enter_context(_Factories())
        for name, instead in (
            ("torch.cuda.get_rng_state", lambda device: torch.get_rng_state()),
            ("torch.cuda.set_rng_state", lambda state, device: None),
            ("torch.cuda.synchronize", lambda *device: None),
            ("torch.cuda.mem_get_info", lambda device: (2**40, 2**40)),
            ("torch.Generator", _Generator),
            ("torch.autocast", lambda device_type, *args, **kwargs: autocast("cpu", *args, **kwargs)),
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        ):
            stack.enter_context(patch(name, instead))
        yield OnDevice.waits
