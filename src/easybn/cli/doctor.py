"""Check the installation: versions, devices, threads, free space, data; and how to fix what is wrong.

--report prints the same for an issue, as a block to paste. The exit status is 0 unless something essential is broken.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from jsonargparse import Namespace

from .. import __version__
from ..escapes import say
from ..terminal import Terminal
from .arguments import Parser

EXTRAS: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "plot": ("matplotlib",),
    "slurm": ("submitit",),
}
GIB = 2**30


class Finding(NamedTuple):
    """A line of the output: state, subject, what was found, and the command that fixes it."""

    state: Literal["ok", "note", "broken"]
    about: str
    text: str
    mend: str = ""


def configure(parser: Parser) -> None:
    report = "print a block to paste into an issue: versions, processor, threads, GPU, data, what is not well"
    parser.add_argument("--report", action="store_true", help=report)
    run = "with --report: a run's folder, whose config and command are added"
    parser.add_argument("--run", type=str, default=None, help=run)


def run(arguments: Namespace) -> None:
    if arguments.report:
        from .doctor_report import report

        every = tuple(findings())
        say(report(every, Path(arguments.run) if arguments.run else None))
        say("Read it before you paste it; the home folder is shown as ~.", error=True)
        _fail_if_broken(every)
        return
    if arguments.run:
        raise ValueError("--run goes with --report")
    console = Terminal(soft_wrap=True)
    shown = []
    for found in findings():
        colour = {"ok": "green", "note": "yellow", "broken": "red"}[found.state]
        console.print(f"{found.state:6}", style=colour, end=" ")
        console.print(f"{found.about:13} {found.text}")
        if found.mend:
            console.print(f"{'':20} -> {found.mend}")
        shown.append(found)
    _fail_if_broken(shown)


def _fail_if_broken(shown: Iterable[Finding]) -> None:
    if broken := [found.about for found in shown if found.state == "broken"]:
        raise ValueError(f"broken: {', '.join(broken)}; see above how to fix it")


def findings() -> Iterator[Finding]:
    """All findings, quick checks first."""
    yield from packages()
    yield from extras()
    yield from room()
    yield from devices()
    yield from data()


def packages() -> Iterator[Finding]:
    """Whether the required packages are installed in recent enough versions."""
    yield Finding("ok", "easybn", __version__)
    for line in requires("easybn") or []:
        name, bound = _requirement(line)
        if "extra ==" in line or not name:
            continue
        found = _version(name)
        if found is None:
            yield Finding("broken", name, "is missing", f"pip install '{name}>={bound}'")
        elif _numbers(found) < _numbers(bound):
            yield Finding("broken", name, f"{found} is older than {bound}", f"pip install '{name}>={bound}'")
        else:
            yield Finding("ok", name, found)


def extras() -> Iterator[Finding]:
    """Packages that only some commands need."""
    for extra, names in EXTRAS.items():
        if missing := [name for name in names if find_spec(name) is None]:
            yield Finding("note", extra, f"without {', '.join(missing)}", f"pip install 'easybn[{extra}]'")
        else:
            yield Finding("ok", extra, ", ".join(f"{name} {_version(name)}" for name in names))


def room() -> Iterator[Finding]:
    """Free memory and disk space."""
    from ..data.cache import cache_folder

    if (memory := free_memory()) is not None:
        few = memory < GIB
        text = f"{memory / GIB:.1f} GiB free" + (": less than training a small model needs" if few else "")
        yield Finding("note" if few else "ok", "memory", text, "end other programs, or lower --batch_size" * few)
    for about, folder in (("disk", Path.cwd()), ("cache", cache_folder())):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
        text = f"{free / GIB:.1f} GiB free at {folder}" + ("" if writable else ", which cannot be written to")
        mend = "set XDG_CACHE_HOME to a folder with room" if about == "cache" else "work in a folder with room"
        fine = writable and free > 2 * GIB
        yield Finding("ok" if fine else "note", about, text, "" if fine else mend)


def free_memory() -> int | None:
    """Free bytes of memory; None if the system does not say."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        return int(found[1]) * 1024 if found else None
    except OSError:
        return None


def devices() -> Iterator[Finding]:
    """The devices that torch can use, each after a small computation on it."""
    try:
        import torch
    except Exception as error:  # a half-installed torch raises anything
        yield Finding("broken", "torch", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    limit = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
    few = threads < cores and limit is not None
    text = f"{threads} of torch on {cores} processors"
    yield Finding("note" if few else "ok", "threads", text, f"unset {limit}" if few else "")
    names = {"cpu": f"torch {torch.__version__}"}
    names |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    for device, name in names.items():
        try:
            weight = torch.ones(1, 1, 3, 3, device=device, requires_grad=True)
            out = torch.nn.functional.conv2d(torch.ones(2, 1, 8, 8, device=device), weight)
            (gradient,) = torch.autograd.grad(out.sum(), weight)
            fine = gradient.tolist() == [[[[72.0] * 3] * 3]]
            problem = "computes wrong gradients"
        except RuntimeError as error:
            fine, problem = False, f"does not work: {str(error).splitlines()[0]}"
        mend = "" if fine else "pip install --force-reinstall torch"
        yield Finding("ok" if fine else "broken", device, name + ("" if fine else f": {problem}"), mend)
    if len(names) == 1:
        yield Finding("ok", "cuda", "no GPU that torch can use: trainings run on the CPU")


def data() -> Iterator[Finding]:
    """The data sets that are here; the bundled one is opened."""
    try:
        from ..data import available, load

        source = load("sample")
    except Exception as error:  # of any kind: nothing works without it
        yield Finding("broken", "sample", f"cannot be read: {error}", "pip install --force-reinstall easybn")
        return
    yield Finding("ok", "sample", f"{len(source.train):,} + {len(source.test):,} images, with the package")
    for status in available()[1:]:
        if status.found:
            yield Finding("ok", status.name, f"found in {status.found[0].parent}")
        elif status.name in ("fashion-mnist", "cifar10", "cifar100"):  # the usual ones; easybn data lists all
            looked = ", ".join(map(str, status.looked))
            yield Finding("note", status.name, f"not in {looked}", f"easybn data {status.name} --download")


def _requirement(line: str) -> tuple[str, str]:
    """('torch', '2.6') for 'torch>=2.6'; empty strings if the line has another form."""
    found = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?\s*>=\s*([\w.]+)", line)
    return (found[1], found[2]) if found else ("", "")


def _numbers(text: str) -> tuple[int, ...]:
    """(2, 6, 0) for '2.6.0+cpu'."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
