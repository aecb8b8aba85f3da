"""What several processes bring, and what they have to tell each other: weak scaling, one's own loop, bytes on paper.

    python bench/scaling.py [weak] [loop] [bytes]     by default all three, under four minutes on two quiet cores

weak    images/s of easybn.fit in one process, and in two with as many images a step each; one thread a process.
loop    one's own loop, two processes: what DistributedDataParallel costs in each of the ways of docs/own-loop.md.
bytes   what a step moves, and how long that takes beside the step: from parameter counts and operations, on paper.

Processes are started once. What is compared takes turns within a round; a ratio is formed within a round, and the
median of the rounds is printed with the range of their middle half. "had a core" is a process's own time in the time
that passed: where it is far below 1 for a single process, others are at work here and the figures say nothing.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from flops import PEAK, SHARE, Passes, shape_of
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training import ratio

from easybn import PGD, Linf, convert, easy, evaluating, fit, recipes, route
from easybn.models import build
from easybn.runs.config import Experiment
from easybn.train.distributed import GradientAverage, Processes
from easybn.train.observers import Observer, TrainingState
from easybn.train.schedule import Training

MODEL, SIZE, BATCH = "resnet_tiny", 28, 128
"""The small net, on grey images as Fashion-MNIST has them; images of one process in a step."""
COUNT, AIM = 2, 1.8
"""Processes, and their images/s in those of one."""


def net() -> nn.Module:
    torch.manual_seed(0)
    return build(MODEL, in_channels=1, mean=[0.5], std=[0.5])


@contextmanager
def processes(work: Callable[..., None], *arguments: Any) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Two processes that ``work(rank, folder, turn, *arguments)``; yields the folder, and turn for the caller."""
    with tempfile.TemporaryDirectory() as folder:
        turn = mp.get_context("spawn").Barrier(COUNT + 1)
        context = mp.spawn(_group, (work, folder, turn, *arguments), nprocs=COUNT, join=False)
        try:
            yield Path(folder), turn.wait
        except BaseException:
            turn.abort()  # or they would wait for ever
            raise
        finally:
            while not context.join():
                pass


def _group(rank: int, work: Callable[..., None], folder: str, turn: Any, *arguments: Any) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", COUNT)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=COUNT)
    work(rank, Path(folder), turn, *arguments)
    dist.destroy_process_group()


# Weak scaling of easybn.fit


class Clock(Observer):
    """(wall, own) seconds from the end of the first step, which prepares much, to the end of the last."""

    def step(self, state: TrainingState) -> None:
        now = time.perf_counter(), time.process_time()
        self.began = now if state.step == 1 else self.began
        self.took = [b - a for a, b in zip(self.began, now, strict=True)]


def fitted(recipe: str, steps: int, count: int) -> tuple[float, float]:
    """Images/s of all processes, and the share of the time in which this one had a core; only in the first."""
    images = BATCH * count * steps
    x = torch.randint(0, 256, (images, 1, SIZE, SIZE), dtype=torch.uint8)
    training = Training(epochs=1, batch_size=BATCH * count, augment="crop_flip")
    clock, kind = Clock(), getattr(recipes, recipe)
    fit(net(), kind(), (x, torch.arange(images) % 10), training, observers=[clock], device="cpu")
    if Processes.here().rank > 0:
        return 0.0, 0.0
    wall, own = clock.took
    return BATCH * count * (steps - 1) / wall, own / wall


def together(rank: int, folder: Path, turn: Any, recipe: str, steps: int, rounds: int) -> None:
    for k in range(rounds):
        turn.wait()  # until here the single process was at work
        measured = fitted(recipe, steps, COUNT)
        if rank == 0:
            (folder / f"{k}.json").write_text(json.dumps(measured))
        turn.wait()


def weak(rounds: int) -> None:
    for recipe, steps in (("Vanilla", 20), ("EBN", 9)):
        one, two = [], []
        with processes(together, recipe, steps, rounds) as (folder, turn):
            for k in range(rounds):
                one.append(fitted(recipe, steps, 1))
                turn()
                turn()
                two.append(json.loads((folder / f"{k}.json").read_text()))
        speeds, cores = ([[round_[i] for round_ in each] for each in (one, two)] for i in range(2))
        for count, speed, core in zip((1, COUNT), speeds, cores, strict=True):
            print(
                f"fit, {MODEL}, {recipe}, {BATCH} images a process, {count} process(es): "
                f"{statistics.median(speed):,.0f} images/s, had a core {statistics.median(core):.2f} of the time"
            )
        print(f"two processes / one: {ratio(speeds[1], speeds[0])}  (aim: at least {AIM})", flush=True)


# One's own loop


class Joint(nn.Module):
    """Both losses in one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, x_easy: Tensor, y: Tensor) -> Tensor:
        main = F.cross_entropy(self.model(x), y)
        with route(self.model, "easy"):
            return 0.5 * main + 0.5 * F.cross_entropy(self.model(x_easy), y)


def ways() -> dict[str, tuple[Callable[[Tensor, Tensor], None], nn.Module]]:
    """For each way a step without the optimiser's, and the model or its wrapper."""
    attack = PGD(Linf(1 / 255))

    def model() -> nn.Module:
        return convert(net()).to(memory_format=torch.channels_last).train()

    def easier(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with route(model, "easy"), evaluating(model):
            return attack(model, x, easy(y))

    def terms(inner: nn.Module, called: nn.Module, first: Callable[[], Any], x: Tensor, y: Tensor) -> None:
        with first():
            F.cross_entropy(called(x), y).mul(0.5).backward()
        x_easy = easier(inner, x, y)
        with route(inner, "easy"):
            F.cross_entropy(called(x_easy), y).mul(0.5).backward()

    def wrapper(module: nn.Module, **options: Any) -> DistributedDataParallel:
        parallel = DistributedDataParallel(module, **options)
        parallel.broadcast_buffers = False
        return parallel

    alone, averaged, inner = model(), model(), [model() for _ in range(3)]
    average = GradientAverage(Processes.here(), averaged)
    every, last = (wrapper(m, find_unused_parameters=True) for m in inner[:2])
    joint = wrapper(Joint(inner[2]))

    def flat(x: Tensor, y: Tensor) -> None:
        terms(averaged, averaged, nullcontext, x, y)
        average(len(x), COUNT * len(x))

    return {
        "no exchange": (lambda x, y: terms(alone, alone, nullcontext, x, y), alone),
        "DDP, every term": (lambda x, y: terms(inner[0], every, nullcontext, x, y), every),
        "DDP, no_sync but for the last term": (lambda x, y: terms(inner[1], last, last.no_sync, x, y), last),
        "DDP, one joint loss": (lambda x, y: joint(x, easier(inner[2], x, y), y).backward(), joint),
        "GradientAverage": (flat, averaged),
    }


def exchanged(step: Callable[[], object]) -> tuple[int, int]:
    """Reductions of a step and their bytes, as torch's profiler of the process group sees them."""
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    sizes = []
    for event in profile.events():
        if event.name == "gloo:all_reduce":
            shapes = [shape for shape in event.input_shapes if shape]
            sizes.append(sum(torch.Size(shape).numel() for shape in shapes) * 4)  # float32, and int32 of unused ones
    return len(sizes), sum(sizes)


def loops(rank: int, folder: Path, turn: Any, steps: int, rounds: int) -> None:
    x = torch.rand(BATCH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(rank))
    y = torch.arange(BATCH) % 10
    made = ways()
    optimizers = {name: torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for name, (_, m) in made.items()}

    def step(name: str) -> None:
        optimizers[name].zero_grad()
        made[name][0](x, y)
        optimizers[name].step()

    names, seconds, moved = list(made), {name: [] for name in made}, {}
    for name in names:
        step(name)
        step(name)
        moved[name] = exchanged(lambda name=name: step(name))
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            dist.barrier()
            began = time.perf_counter()
            for _ in range(steps):
                step(name)
            dist.barrier()
            seconds[name].append((time.perf_counter() - began) / steps)
    if rank == 0:
        (folder / "loops.json").write_text(json.dumps([seconds, moved]))
    turn.wait()


def loop(rounds: int) -> None:
    with processes(loops, 4, rounds) as (folder, turn):
        turn()
        seconds, moved = json.loads((folder / "loops.json").read_text())
    for name, took in seconds.items():
        count, size = moved[name]
        print(
            f"own loop, {MODEL}, EBN, {BATCH} images a process, {name:35} "
            f"{COUNT * BATCH / statistics.median(took):7,.0f} images/s, {count:2} reductions, {size / 2**20:.2f} MiB, "
            f"time / no exchange: {ratio(took, seconds['no exchange'])}",
            flush=True,
        )


# On paper

NETS = (("resnet_tiny", "fashion-mnist"), ("resnet18", "cifar10"), ("resnet50", "cifar10"))
MACHINES, LINKS = 8, (1, 10, 100)
"""Processes of the ring, and Gbit/s of each one's link."""
COMPUTERS = {"a core": 15e9, "an A100": SHARE * PEAK}
"""Operations a second that a training reaches; a core of docs/performance.md's machine: half of its matrix products."""


def paper() -> None:
    """The table of docs/performance.md."""
    reached = ", ".join(f"{name} {speed / 1e9:,.0f} GFLOP/s" for name, speed in COMPUTERS.items())
    print(f"EBN, {BATCH} images a process and step, {MACHINES} processes in a ring, which reach: {reached}")
    links = " | ".join(f"{link} Gbit/s" for link in LINKS)
    print(f"| net | parameters | MB | MB moved | on | computing, s | {links} |")
    print(f"| --- |{' ---: |' * 3} --- |{' ---: |' * (1 + len(LINKS))}")
    for name, data in NETS:
        experiment = Experiment(recipe=recipes.EBN(), model=name, data=data)
        shape = shape_of(experiment)
        model = convert(build(name, shape.classes, shape.image[0]))
        size = GradientAverage(Processes(), model).bytes
        ring = 2 * (MACHINES - 1) / MACHINES * size
        operations = Passes(experiment, shape).step(experiment) * BATCH
        parameters = sum(p.numel() for p in model.parameters())
        for computer, speed in COMPUTERS.items():
            step = operations / speed
            shares = " | ".join(f"{step / (step + 8 * ring / (link * 1e9)):.0%}" for link in LINKS)
            sizes = f"{parameters:,} | {size / 1e6:.2f} | {ring / 1e6:.2f}"
            print(f"| {name} | {sizes} | {computer} | {float(f'{step:.2g}'):g} | {shares} |", flush=True)


PARTS: dict[str, Callable[[int], None]] = {"weak": weak, "loop": loop, "bytes": lambda rounds: paper()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"some of {', '.join(PARTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}")
    for part in arguments.parts:
        PARTS[part](arguments.rounds)


if __name__ == "__main__":
    main()
