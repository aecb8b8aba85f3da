"""Data parallel training: several processes, on one machine or on many, take the steps of one training together.

Every process has the whole model and a share of each batch. In a step it drains the recipe's generator on its share,
without a word to the others; then gradients are averaged once, in flat buckets, weighted by each process's number of
images. The running statistics travel with them, so that after every step all processes have the same weights,
statistics and optimiser state: what the first one saves is the state of all. (The average of the running averages is
the running average of the averages, so it does not matter how often they are averaged.)

Random numbers belong to images (:mod:`easybn.keyed_random`): processes draw different ones because their images differ,
and an image is perturbed as it would be by a single process.

What is exchanged beside tensors is JSON: nothing that another process sends is unpickled.
"""

import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 2**25
"""Of one exchange: enough that latency does not count, and little beside the gradients themselves."""


class ProcessLost(ConnectionError):
    """Another process of this training has ended, or is out of reach."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them sees them.

    Args:
        rank: number of this process, from 0; the first one validates, saves and reports.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Processes":
        """Those of torch's default process group; one if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of ``count`` images; parts differ by one image at most, and together they are all."""
        return slice(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over all processes, which are thereby at the same point of their program."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64, device=_messenger())
        with lost_process_explained(tensor):
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Everybody's ``value`` (of kinds that JSON knows), in the order of the ranks."""
        if self.count == 1:
            return [value]
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        most = self.largest(len(mine))[0]
        padded = torch.full((most,), ord(" "), dtype=torch.uint8)
        padded[: len(mine)] = mine
        padded = padded.to(_messenger())
        every = [torch.empty_like(padded) for _ in range(self.count)]
        with lost_process_explained(padded, *every):
            dist.all_gather(every, padded)
        return [json.loads(bytes(each.tolist())) for each in every]

    def from_first(self, compute: Callable[[], bytes]) -> bytes:
        """What ``compute``, which only the first process calls, returns; in all processes.

        Raises:
            ProcessLost: in the others, if it raises.
            BaseException: in the first process, whatever ``compute`` raises.
        """
        if self.count == 1:
            return compute()
        if not self.first:
            ok, _, answer = self._receive().partition(b"\n")
            if ok != b"ok":
                raise ProcessLost(f"the first of the {self.count} processes has stopped: {answer.decode()}")
            return answer
        try:
            data = compute()
        except BaseException as error:
            self._receive(b"failed\n" + (" ".join(str(error).split()) or type(error).__name__).encode())
            raise
        self._receive(b"ok\n" + data)
        return data

    def _receive(self, data: bytes = b"") -> bytes:
        """The first process's ``data``."""
        size = self.largest(len(data) if self.first else 0)[0]
        content = torch.zeros(size, dtype=torch.uint8)
        if self.first and size:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        content = content.to(_messenger())
        with lost_process_explained(content):
            dist.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            with lost_process_explained(tensor):
                dist.all_reduce(tensor)
        return tensor

    def start_alike(self, model: nn.Module) -> None:
        """Give every process the first one's weights and buffers.

        Raises:
            ValueError: their models have other parameters or buffers.
        """
        if self.count == 1:
            return
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        shapes = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors.items()]
        for rank, theirs in enumerate(self.gather(shapes)):
            if theirs != shapes:
                raise ValueError(f"process {rank} has another model than process {self.rank}: give every one the same")
        with lost_process_explained(), torch.no_grad():
            _exchange([tensor.detach() for tensor in tensors.values()], lambda flat: dist.broadcast(flat, 0))

    def check_same(self, settings: Mapping[str, str]) -> None:
        """ValueError unless all processes train by the same settings."""
        for rank, theirs in enumerate(self.gather(dict(settings))):
            names = [name for name in {**settings, **theirs} if settings.get(name) != theirs.get(name)]
            if names:
                what = "; ".join(f"{name}: {settings.get(name)} here, {theirs.get(name)} there" for name in names)
                raise ValueError(f"process {rank} has another training than process {self.rank} ({what})")


class GradientAverage:
    """Makes gradients and buffers the same in all processes after a step's last backward pass.

    A parameter without a gradient in some processes counts as zero there; without one in any it has none, so that the
    optimiser leaves it alone everywhere. Running statistics of norms are averaged like gradients; other buffers of
    floating point numbers are the first process's.

    Args:
        processes: which there are.
        model: whose parameters and buffers; tensors that are replaced later are not seen.
    """

    def __init__(self, processes: Processes, model: nn.Module):
        self._processes = processes
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        statistics = {id(s): s for m in model.modules() for s in _running_statistics(m)}
        self._statistics = list(statistics.values())
        self._others = [b for b in model.buffers() if b.is_floating_point() and id(b) not in statistics]

    @torch.no_grad()
    def __call__(self, images: int, total: int) -> None:
        """Average over all processes.

        Args:
            images: of this process in this step.
            total: of all processes.
        """
        if self._processes.count == 1:
            return
        has_gradient = self._processes.largest(*(p.grad is not None for p in self._parameters))
        gradients = []
        for parameter, somewhere in zip(self._parameters, has_gradient, strict=True):
            if somewhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        averaged = [*gradients, *self._statistics]
        if averaged:
            torch._foreach_mul_(averaged, images / total)
        if self._others and not self._processes.first:
            torch._foreach_zero_(self._others)
        with lost_process_explained():
            _exchange([*averaged, *self._others], dist.all_reduce)

    @property
    def bytes(self) -> int:
        """Bytes that a step exchanges if every parameter has a gradient."""
        return sum(t.numel() * t.element_size() for t in (*self._parameters, *self._statistics, *self._others))


def _running_statistics(module: nn.Module) -> list[Tensor]:
    found = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return [each for each in found if isinstance(each, Tensor) and each.is_floating_point()]


def _exchange(tensors: Sequence[Tensor], collective: Callable[[Tensor], Any]) -> None:
    """Let ``collective`` work on ``tensors``, copied into flat buckets and back."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    for same in by_kind.values():
        for bucket in _buckets(same):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            collective(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)])


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    bucket, size = list[Tensor](), 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def _messenger() -> torch.device:
    """Where messages lie: in memory if the group can exchange it, so that no process waits for its device."""
    if "cpu" in str(dist.get_backend_config()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


_exchanged: deque[tuple[Tensor, ...]] = deque(maxlen=4)
"""The last messages, until their process group has ended: its end waits for gloo's threads, which in torch 2.6 wait for
Python if theirs is the last reference to a tensor, and so for ever."""


def forget_messages() -> None:
    """Called once the process group has ended: see :data:`_exchanged`."""
    _exchanged.clear()


@contextmanager
def lost_process_explained(*messages: Tensor) -> Iterator[None]:
    """A ProcessLost for an exchange that failed."""
    if messages:
        _exchanged.append(messages)
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # gloo's words, without its source file and its advice: [.../pair.cc:545] Read error ... . This is typically ...
        why = re.sub(r"^\[\S+:\d+\] ", "", str(error).strip().splitlines()[0]).partition(". ")[0]
        raise ProcessLost(
            "another process of this training has ended, or is out of reach, so this one stops too; its own message "
            f"says why, unless it was killed ({why}): run the same command again to resume"
        ) from error


def default_device() -> torch.device:
    """CUDA if there is one, the one of this process if a launcher has started several; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if Processes.here().count > 1 else torch.device("cuda")


def synchronised(model: nn.Module) -> nn.Module:
    """``model`` with its batch norms replaced by SyncBatchNorm, which normalise by the batches of all processes.

    Parameters and buffers are the same tensors under the same names. timm's batch norms keep their activation.
    """
    from timm.layers.norm_act import convert_sync_batchnorm  # here, because importing timm takes a second

    modes = {name: module.training for name, module in model.named_modules()}
    new: nn.Module = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    for name, module in new.named_modules():  # before timm 1.0.26 the new norms are in train mode
        module.training = modes[name]
    return new


def to_bytes(state: dict[str, Any]) -> bytes:
    """Tensors and plain values, to send; :func:`from_bytes` reads them."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes) -> dict[str, Any]:
    """What :func:`to_bytes` made, its tensors on the CPU; only tensors and plain values are unpickled."""
    content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return content
