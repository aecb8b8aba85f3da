"""How the processes of a training find each other: by what torchrun, accelerate launch or Slurm's srun tell each."""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from .distributed import Processes, forget_messages, lost_process_explained

TIMEOUT = timedelta(minutes=30)
"""For which a process waits for the others. One that dies is noticed at once, since its connections are closed; this is
for machines that vanish without a word, and enough for the first process to decode a data set."""


@dataclass(frozen=True)
class Launched:
    """What the launcher tells a process.

    Args:
        rank, count: of all.
        local_rank: its number among those of its machine, which is also that of its GPU.
        address, port: where the first process listens.
    """

    rank: int
    count: int
    local_rank: int
    address: str
    port: int


def launched(environ: Mapping[str, str] = os.environ) -> Launched | None:
    """What a launcher's environment variables say; None for a process that is alone.

    torchrun and accelerate set ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``; a step that srun starts
    has ``SLURM_PROCID`` and ``SLURM_STEP_NUM_TASKS``. (The batch script of a job has no step: it is one process.)

    Raises:
        ValueError: some are there and others are not, or they are no numbers; processes that MPI started; the single
            one that ``accelerate launch --cpu --num_processes 2`` starts.
    """
    if int(environ.get("WORLD_SIZE") or 1) > 1:
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if missing := [name for name in names if not environ.get(name)]:
            raise ValueError(f"WORLD_SIZE is set and {missing[0]} is not: start the processes by torchrun")
        rank, count = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        local = int(environ.get("LOCAL_RANK") or 0)
        return Launched(rank, count, local, environ["MASTER_ADDR"], int(environ["MASTER_PORT"]))
    if int(environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1 and "SLURM_PROCID" in environ:
        port = 20000 + (int(environ.get("SLURM_JOB_ID", 0)) * 64 + int(environ.get("SLURM_STEP_ID", 0))) % 20000
        return Launched(
            rank=int(environ["SLURM_PROCID"]),
            count=int(environ["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environ.get("SLURM_LOCALID") or 0),
            address=environ.get("MASTER_ADDR") or _first_host(environ),
            port=int(environ.get("MASTER_PORT") or port),
        )
    instead = "use torchrun, srun, or accelerate launch --multi_gpu, which starts processes for CPUs too"
    if any(int(environ.get(name) or 1) > 1 for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")):
        raise ValueError(f"several processes were started by MPI, of which easybn knows nothing: {instead}")
    if environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and environ.get("MASTER_ADDR"):
        raise ValueError(f"accelerate launch --cpu starts a single process, which would train alone: {instead}")
    return None


def _first_host(environ: Mapping[str, str]) -> str:
    """A name or address of the step's first machine, on which the first process is."""
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    asked = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False)
    host = next(iter(asked.stdout.split()), nodes)
    try:
        socket.getaddrinfo(host, None)
    except OSError:  # a name that only Slurm knows: its launcher is on the first machine of a job
        return environ.get("SLURM_LAUNCH_NODE_IPADDR", host)
    return host


@contextmanager
def process_group(device: torch.device | str | None = None) -> Iterator[Processes]:
    """Inside the block, the processes that a launcher has started with this one are torch's default process group.

    Gradients are exchanged by NCCL between GPUs and by gloo between CPUs. A group that is there already is used and
    left alone.

    Args:
        device: on which the training computes; by default CUDA if there is one.

    Raises:
        ValueError: the launcher's environment variables make no sense.
        ProcessLost: the others do not come.
    """
    if not dist.is_available() or dist.is_initialized() or (found := launched()) is None:
        yield Processes.here()
        return
    cuda = torch.cuda.is_available() and torch.device(device or "cuda").type == "cuda"
    if cuda:
        torch.cuda.set_device(found.local_rank % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if cuda and dist.is_nccl_available() else "gloo"
    os.environ |= {"MASTER_ADDR": found.address, "MASTER_PORT": str(found.port)}  # torchrun's own store is found by env
    with lost_process_explained():
        dist.init_process_group(backend, init_method="env://", rank=found.rank, world_size=found.count, timeout=TIMEOUT)
    try:
        processes = Processes.here()
        if cuda:
            gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
            check_gpus(processes.gather([socket.gethostname(), str(gpu.uuid)]))
        yield processes
    finally:
        dist.destroy_process_group()
        forget_messages()


def check_gpus(gpus: Sequence[Sequence[str]]) -> None:
    """ValueError if two processes have one GPU, which NCCL cannot do.

    Args:
        gpus: of each process its machine and an identifier.
    """
    for rank, gpu in enumerate(gpus):
        if (other := gpus.index(gpu)) < rank:
            raise ValueError(
                f"processes {other} and {rank} would share a GPU of {gpu[0]}: start one process for each GPU, or give "
                "--device cpu"
            )
