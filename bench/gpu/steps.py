"""Training steps to be timed: ours and those usually written, eager, compiled or as a CUDA graph."""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from usual import by_torch, concatenated_step, sliced, vanilla_step

from easybn import convert, recipes
from easybn.models import build
from easybn.perturb.goal import values_known
from easybn.recipes import Context
from easybn.train.prepare import autocast_for, compile_model
from easybn.train.step import SGD, take_step

USUAL: dict[str, Any] = {  # how the model is changed, and the step
    "usual Vanilla": (nn.Identity(), vanilla_step),
    "usual AdvProp": (sliced, concatenated_step),
}
Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """One step to be timed.

    Args:
        model: a name of :func:`easybn.models.build`.
        batch: images a step, of 3 x pixels x pixels.
        kind: the class of a recipe, or one of ``USUAL``.
        precision: "32" (TF32 on a CUDA device) or "bf16".
        how: "eager", "compiled" or "graph".
    """

    model: str
    batch: int
    kind: str
    precision: str = "bf16"
    how: str = "eager"
    pixels: int = 32

    def __str__(self) -> str:
        precision = "TF32" if self.precision == "32" else self.precision
        return f"{self.kind}, {self.model}, batch {self.batch}, {precision}, {self.how}"


def make(setting: Setting, device: torch.device) -> Step:
    """The step, all of it: perturbation, forward and backward passes, the optimiser's step; channels last."""
    x = torch.rand(setting.batch, 3, setting.pixels, setting.pixels, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (setting.batch,), device=device)
    autocast = autocast_for(setting.precision, device)
    model = build(setting.model)
    if setting.kind in USUAL:
        change, usual = USUAL[setting.kind]
        model = change(by_torch(model)).train().to(device, memory_format=torch.channels_last)
        optimizer = _sgd(model)
        model = compile_model(model) if setting.how == "compiled" else model

        def step() -> None:
            with autocast or nullcontext():
                usual(model, optimizer, x, y)
    else:
        step = ours(getattr(recipes, setting.kind)(), model.to(device), x, y, autocast, setting.how == "compiled")
    return captured(step) if setting.how == "graph" else step


def ours(recipe: Any, model: nn.Module, x: Tensor, y: Tensor, autocast: Any = None, compile: bool = False) -> Step:
    """A recipe's step as :func:`easybn.fit` takes it, on one batch."""
    model = convert(model, recipe.branches) if len(recipe.branches) > 1 else model
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = _sgd(model)
    stepped = compile_model(model) if compile else model
    ids = torch.arange(len(x), device=x.device)
    at: Any = torch.zeros((), dtype=torch.int64, device=x.device)  # in a graph it counts on

    def step() -> None:
        with values_known():  # they are not looked at in most steps of a training, since that waits for the device
            take_step(stepped, optimizer, lambda: recipe(stepped, x, y, Context(ids, at)), autocast=autocast)
        at.add_(1)

    return step


def captured(step: Step) -> Step:
    """The step as a CUDA graph: launched as one, whatever Python does for it otherwise."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def seconds(step: Step, device: torch.device, *, warm: int = 3, most: int = 20, limit: float = 0.8) -> float:
    """The median time of a step: by CUDA events, on a CPU by the clock.

    Args:
        warm: steps before the first that counts.
        most, limit: steps and seconds after which no further one is taken.
    """
    for _ in range(warm):
        step()
    if device.type != "cuda":
        took = []
        began = time.perf_counter()
        while len(took) < most and (not took or time.perf_counter() - began < limit):
            at = time.perf_counter()
            step()
            took.append(time.perf_counter() - at)
        return statistics.median(took)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    marks = [_mark()]
    while len(marks) <= most and (len(marks) < 4 or time.perf_counter() - began < limit):
        step()
        marks.append(_mark())
    torch.cuda.synchronize(device)
    return statistics.median(a.elapsed_time(b) / 1000 for a, b in pairwise(marks))


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """Operations a second of a product of two square matrices, a multiplication and an addition being two."""
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


def operations(setting: Setting) -> float:
    """Of convolutions and products in an image's share of a step of the setting's recipe, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = by_torch(build(setting.model))
    images = 10  # so that a fifth of them is whole
    x, y = torch.empty(images, 3, setting.pixels, setting.pixels, device="meta"), torch.empty(images, device="meta")
    step = ours(getattr(recipes, setting.kind)(), model, x, y.long())
    with FlopCounterMode(display=False) as counted:
        step()
    return counted.get_total_flops() / images
