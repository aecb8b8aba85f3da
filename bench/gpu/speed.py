"""Stage ``speed``: images a second of training steps, points a second of AutoAttack, and what the loop leaves idle.

What matters most comes first: when the time is over, what is missing is the tail of the list. Every row has item, value
and unit; a step's rows its model, batch, kind, precision and how, milliseconds, and the share of the card's measured
rate at multiplying matrices; what could not be measured has no value, and a note.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from training import Free

from easybn import data, recipes
from easybn.evaluation.config import PRESETS
from easybn.models import build
from easybn.train.fit import CHECK_EVERY, fit
from easybn.train.observers import Observer, TrainingState
from easybn.train.schedule import Training
from gpu import steps
from gpu.rows import Clock, Rows
from gpu.steps import Setting

RATIOS = [  # what is divided by what, in time, and the aim
    ("EBN", "Vanilla", 2.6),
    ("EBN", "usual AdvProp", 0.75),
    ("AdvProp", "usual AdvProp", 0.75),
    ("Vanilla", "usual Vanilla", None),
    ("EBNShared", "Vanilla", None),
    ("FastEBN", "Vanilla", None),
]
COUNTED = ("Vanilla", "EBN")  # whose operations are counted, for the share of the card's rate
SHARE_AIM = 0.35  # bf16, ResNet-50, batch 512, Vanilla
BUSY_AIM = 0.95
STEP, COMPILED, ATTACK, LOOP = 2.5, 45.0, 12.0, 6.0  # seconds that one item takes, about


def main(out: Path, seconds: float, small: bool, device: str) -> None:
    stage = Stage(out, seconds, small, torch.device(device))
    stage.rates()
    first, rest = (settings(small, first) for first in (True, False))
    stage.steps(first)
    stage.loop()
    stage.attacks()
    stage.steps(rest)


def settings(small: bool, first: bool) -> Iterator[Setting]:
    """The steps to be timed, in order: those that the aims are about, or all others."""
    if small:
        kinds = ("Vanilla", "EBN", "usual AdvProp") if first else ("EBNShared", "FastEBN")
        yield from (Setting("resnet_tiny", 8, kind, pixels=8) for kind in kinds)
        return
    small_batch, large = Setting("resnet18", 128, ""), Setting("resnet50", 512, "")
    told = set()
    for base, kinds, hows in (
        (small_batch, ("Vanilla", "EBN", "usual AdvProp"), ("eager", "graph")),
        (large, ("Vanilla", "EBN", "usual AdvProp"), ("eager", "graph")),
        (small_batch, ("AdvProp", "EBNShared", "FastEBN", "usual Vanilla"), ("eager", "graph")),
        (replace(small_batch, precision="32"), ("Vanilla", "EBN", "usual AdvProp"), ("eager", "graph")),
    ):
        for how in hows:
            for kind in kinds:
                told.add(each := replace(base, kind=kind, how=how))
                if first:
                    yield each
    if first:
        return
    every = ("Vanilla", "EBN", "usual AdvProp", "AdvProp", "EBNShared", "FastEBN", "usual Vanilla")
    for model, batch in (("resnet18", 512), ("resnet50", 128), ("resnet50", 512), ("resnet18", 128)):
        for precision in ("bf16", "32"):
            for how in ("eager", "graph"):
                others = (Setting(model, batch, kind, precision, how) for kind in every)
                yield from (each for each in others if each not in told)
    yield from (Setting("resnet18", 128, kind, how="compiled") for kind in ("Vanilla", "EBN"))
    yield Setting("resnet50", 512, "Vanilla", how="compiled")


class Stage:
    """The rows of one run, and what later ones are ratios of."""

    def __init__(self, out: Path, seconds: float, small: bool, device: torch.device):
        self.clock, self.rows = Clock(seconds), Rows(out, "speed", str(device))
        self.small, self.device, self.cuda = small, device, device.type == "cuda"
        self.step_seconds: dict[Setting, float] = {}
        self.matmul: dict[str, float] = {}
        if self.cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True

    def measured(self, item: str, needs: float, unit: str, work: Callable[[], tuple[float, dict[str, Any]]]) -> None:
        """Write the row that ``work`` gives, if there is time; whatever fails is a row without a value."""
        if not self.clock.allows(0 if self.small else needs):
            return
        try:
            value, more = work()
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.rows.write(item=item, value=None, unit=unit, note=f"not measured: {told}")
            if self.cuda:
                torch.cuda.empty_cache()
            return
        self.rows.write(item=item, value=value, unit=unit, **more)

    def rates(self) -> None:
        """The card's rate at multiplying matrices, in either precision."""
        size = 256 if self.small else 8192
        for name, dtype in (("bf16", torch.bfloat16), ("32", torch.float32)):

            def work(name: str = name, dtype: torch.dtype = dtype) -> tuple[float, dict[str, Any]]:
                self.matmul[name] = steps.matmul_rate(dtype, self.device, size)
                return self.matmul[name] / 1e12, {"precision": name, "size": size}

            self.measured(f"matmul, {size} cubed, {'TF32' if name == '32' else name}", 1, "TFLOP/s", work)

    def steps(self, wanted: Iterator[Setting]) -> None:
        """Time steps, and write each ratio as soon as both its parts are known."""
        for setting in wanted:
            if setting.how != "eager" and not self.cuda:
                continue
            needs = COMPILED if setting.how == "compiled" else STEP
            self.measured(str(setting), needs, "images/s", lambda setting=setting: self._step(setting))
            for above, below, aim in RATIOS:
                a, b = replace(setting, kind=above), replace(setting, kind=below)
                if setting in (a, b) and a in self.step_seconds and b in self.step_seconds:
                    value, fields = self.step_seconds[a] / self.step_seconds[b], asdict(replace(setting, kind=above))
                    item = str(replace(setting, kind=f"{above} / {below}"))
                    self.rows.write(item=item, value=value, unit="ratio", aim=aim, **fields, below=below)

    def _step(self, setting: Setting) -> tuple[float, dict[str, Any]]:
        if setting not in self.step_seconds:
            step = steps.make(setting, self.device)
            self.step_seconds[setting] = steps.seconds(step, self.device, limit=0.2 if self.small else 0.8)
        took = self.step_seconds[setting]
        fields: dict[str, Any] = {**asdict(setting), "milliseconds": 1000 * took}
        if setting.kind in COUNTED and setting.precision in self.matmul:
            fields["tflops"] = _operations(setting.model, setting.kind, setting.pixels) * setting.batch / took / 1e12
            fields["share"] = fields["tflops"] * 1e12 / self.matmul[setting.precision]
            if (setting.model, setting.batch, setting.kind, setting.precision) == ("resnet50", 512, "Vanilla", "bf16"):
                fields["aim"] = SHARE_AIM
        return setting.batch / took, fields

    def loop(self) -> None:
        """Of :func:`easybn.fit`: images a second of a free network, how busy the device is, what a step waits for."""
        self.measured("training loop, free network, crop_flip, batch 512", LOOP, "images/s", self._free)
        self.measured("training loop, EBN, batch 128, device busy", 2 * LOOP, "share", self._busy)
        self.measured("training loop, EBN, batch 128, waits in a step", LOOP, "a step", self._waits)

    def _free(self) -> tuple[float, dict[str, Any]]:
        n, batch = (256, 32) if self.small else (51200, 512)
        watch = Marks(self.device)
        fit(Free(), recipes.Vanilla(), _images(n), Training(3, batch, augment="crop_flip"), **self._fit(watch))
        return batch * (len(watch.at) - 2) / (watch.at[-1] - watch.at[1]), {"batch": batch}

    def _trained(self, observer: Observer, count: int) -> Training:
        """A training of EBN, ``count`` steps of it at least."""
        batch, pixels = (8, 8) if self.small else (128, 32)
        training = Training(1, batch, augment="crop_flip", precision="bf16")
        network = build("resnet_tiny" if self.small else "resnet18")
        fit(network, recipes.EBN(), _images(count * batch, pixels), training, **self._fit(observer))
        return training

    def _busy(self) -> tuple[float, dict[str, Any]]:
        """The kernels' time, by the profiler, as a share of the time of as many steps without it."""
        from torch.profiler import ProfilerActivity, profile

        count = 4 if self.small else 45
        watch = Marks(self.device)
        self._trained(watch, count)
        wall = (watch.at[-1] - watch.at[2]) / (len(watch.at) - 3)
        activity = ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU
        profiler = profile(activities=[activity])
        self._trained(Between(profiler, 2, 3 if self.small else 22), count)
        kind = "self_device_time_total" if self.cuda else "self_cpu_time_total"
        spent = sum(getattr(event, kind) for event in profiler.key_averages()) / 1e6 / (1 if self.small else 20)
        aim = {"aim": BUSY_AIM} if self.cuda else {"note": "of the operations on a CPU"}
        return spent / wall, {"milliseconds": 1000 * wall, "of_kernels": 1000 * spent, **aim}

    def _waits(self) -> tuple[float, dict[str, Any]]:
        count = 4 if self.small else CHECK_EVERY - 1  # the first step looks at values, the last one saves and sums up
        if not self.cuda:
            self._trained(Marks(self.device), count)
            return 0.0, {"note": "not counted on a CPU"}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            watch = Warned(told, 1, count - 1)
            self._trained(watch, count)
        return watch.counted / (count - 2), {"aim": 0, "note": "; ".join(sorted(watch.messages))[:300]}

    def _fit(self, observer: Observer) -> dict[str, Any]:
        return {"device": self.device, "observers": [observer]}

    def attacks(self) -> None:
        """AutoAttack on RN-18, every point robust, all attacks shortened alike; and presets by name."""
        try:
            import peers
            import shortened
        except ImportError as error:
            self.rows.write(item="AutoAttack", value=None, unit="points/s", note=f"not measured: {error}")
            return
        n = 4 if self.small else 256
        short = peers.Short(2, 2, 10) if self.small else shortened.SHORT
        torch.backends.cudnn.benchmark = False  # it would try out every size of a batch
        source, network, eps = data.load("sample"), "resnet_tiny" if self.small else "resnet18", 0.05 / 255
        x, _ = source.test.batch(torch.arange(n))
        model, y = shortened.untrained(network, x, source)
        model, x, y = model.to(self.device), x.to(self.device), y.to(self.device)

        def ours() -> tuple[float, dict[str, Any]]:
            return self._points(n, lambda: shortened.ours_shortened(model, x, y, "linf", eps, short))

        def reference() -> tuple[float, dict[str, Any]]:
            return self._points(n, lambda: peers.reference(model, x, y, "linf", eps, short=short))

        name = f"AutoAttack, shortened alike, {network}, {n} points"
        self.measured(f"{name}, ours", ATTACK, "points/s", ours)
        self.measured(f"{name}, reference", ATTACK, "points/s", reference)
        if "fast" in PRESETS:
            from easybn import evaluate

            def fast() -> tuple[float, dict[str, Any]]:
                return self._points(n, lambda: evaluate(model, x, y, eps=8 / 255, norm="linf", attacks="fast"))

            self.measured(f"preset fast, 8/255, {n} points", ATTACK, "points/s", fast)

    def _points(self, n: int, work: Callable[[], object]) -> tuple[float, dict[str, Any]]:
        began = time.perf_counter()
        work()
        if self.cuda:
            torch.cuda.synchronize()
        return n / (time.perf_counter() - began), {"points": n}


class Marks(Observer):
    """When the device was done with each step; the device is waited for only where its time is asked."""

    def __init__(self, device: torch.device):
        self.at: list[float] = []
        self._cuda = device.type == "cuda"

    def step(self, state: TrainingState) -> None:
        if self._cuda and (len(self.at) < 3 or state.step == state.total_steps):
            torch.cuda.synchronize()
        self.at.append(time.perf_counter())


class Between(Observer):
    """A context that is entered after one step and left after another."""

    def __init__(self, context: Any, first: int, last: int):
        self._context, self._first, self._last = context, first, last

    def step(self, state: TrainingState) -> None:
        if state.step in (self._first, self._last) and torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.step == self._first:
            self._context.__enter__()
        elif state.step == self._last:
            self._context.__exit__(None, None, None)


class Warned(Observer):
    """Counts torch's warnings of what waits for the device, from one step to another."""

    def __init__(self, told: list[warnings.WarningMessage], first: int, last: int):
        self._told, self._first, self._last = told, first, last
        self.counted, self.messages = 0, set[str]()

    def step(self, state: TrainingState) -> None:
        if state.step == self._first:
            self._told.clear()
            torch.cuda.set_sync_debug_mode("warn")
        elif state.step == self._last:
            torch.cuda.set_sync_debug_mode("default")
            waits = [each for each in self._told if "synchroniz" in str(each.message)]
            self.counted = len(waits)
            self.messages = {f"{Path(each.filename).name}:{each.lineno}" for each in waits}


def _images(n: int, pixels: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, pixels, pixels), dtype=torch.uint8, generator=generator)
    return x, torch.randint(0, 10, (n,), generator=generator)


@cache
def _operations(model: str, kind: str, pixels: int) -> float:
    return steps.operations(Setting(model, 1, kind, pixels=pixels))
