"""A study: a grid of runs from one YAML file, each trained, stripped and evaluated; what is there is not done again.

Stop it with Ctrl-C, kill it, lose the machine: the same command goes on and ends with the rows of an undisturbed
study. Each run is an ordinary folder of easybn train, OUT/NAME-SEED, and one that was trained by hand there is
taken over. A run that fails is reported and takes no other with it; --retry tries it again. Several of these commands
may share a folder. What it would do, and what it costs: --dry_run.

runs:                                # a config each, of the package or a file, and any field set otherwise
  - config: fashion-mnist-vanilla
  - {name: ebn-8, config: fashion-mnist-ebn, recipe.attack.ball.eps: 8/255}
grid:                                # every run with each of these values; any field
  seed: [0, 1, 2]
evaluate:                            # options of easybn evaluate; clean accuracy always
  - {points: 200, batch_size: 200}
  - {attacks: [autoattack], norm: linf, eps: 8/255, points: 200}

easybn study cpu --jobs 2
easybn study paper --dry_run
easybn study my_study.yaml --only 'ebn-*' --retry
"""

import os
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import DefaultHelpFormatter, Namespace
from rich.console import Console

from ..tables.table import Cell, Line, Table, show
from ..terminal import Terminal
from .arguments import Parser
from .train import duration

if TYPE_CHECKING:
    from ..study.cost import Cost
    from ..study.plan import Planned, Study
    from ..study.state import State


# What a study would do, in the terminal: every run with what is there already, and what it costs.

PETA = 1e15


def show_plan(console: Console, study: "Study", runs: "list[Planned]", out: Path, arguments: Namespace) -> None:
    """A row a run, the totals, and what they rest on."""
    import torch

    from ..study.cost import PEAK, SHARE, Cost, Costs
    from ..study.state import state

    costs, lines = Costs(), []
    total, left, unknown = Cost(), Cost(), 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more are in each other's way where nothing much is computed
    for run in runs:
        if run.code:
            lines.append(Line(run.name, [Cell(_there(out / run.name)), *(Cell("?") for _ in range(3))]))
            continue
        found, cost = state(run, out / run.name), costs(run)
        if cost is None:
            unknown += 1
            figures = ["?", "?", "?"]
        else:
            total += cost
            left += _left(cost, found.epoch / found.epochs, found.measured / found.evaluations)
            figures = [_figure(cost.training / PETA), _figure(cost.evaluation / PETA), _figure(cost.gpu_hours)]
        there = {"waiting": "nothing"}.get(found.kind, f"failed: {found.error}" if found.error else str(found))
        lines.append(Line(run.name, [Cell(text) for text in (there, *figures)]))
    torch.set_num_threads(threads)
    title, columns = f"{study.name}: {len(runs)} runs in {out}", ["there is", "training", "evaluation", "GPU-hours"]
    numeric = [False, True, True, True]
    show(Table(title, "run", columns, lines, "PFLOP; of the evaluation at most", numeric), console)
    console.print(f"measured of each: {'; '.join(map(str, runs[0].wanted))}")
    _line(console, "all", total)
    if left != total:
        _line(console, "left", left)
    if code := sorted({run.code for run in runs if run.code}):
        console.print(f"not in the sums, as --dry_run runs no code that a file names: {', '.join(code)}")
    if unknown:
        console.print(f"{unknown} runs are not in the sums: their images are not here")
    console.print(
        "Counted by torch (two operations a multiply-add) on a step of each recipe and a move of each attack; "
        "evaluation if no point falls, without the diagnosis."
    )
    console.print(
        f"GPU-hours are assumed, not measured: {SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s (the peak of an NVIDIA A100 in "
        "TF32)."
    )
    if arguments.estimate:
        _time_here(console, runs, arguments)


def _there(folder: Path) -> str:
    """Of a run whose recipe is not imported: what its folder alone says."""
    from ..runs.run import Run

    return "a model" if Run(folder).finished else "a checkpoint" if Run(folder).begun else "nothing"


def _left(cost: "Cost", trained: float, evaluated: float) -> "Cost":
    return replace(cost, training=cost.training * (1 - trained), evaluation=cost.evaluation * (1 - evaluated))


def _line(console: Console, name: str, cost: "Cost") -> None:
    console.print(
        f"{name}: training {_figure(cost.training / PETA)} PFLOP, evaluation at most "
        f"{_figure(cost.evaluation / PETA)} PFLOP: {_figure(cost.gpu_hours)} GPU-hours"
    )


def _figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time_here(console: Console, runs: "list[Planned]", arguments: Namespace) -> None:
    """Trainings timed on this machine, one of each kind, and their sum."""
    from ..data import DataError
    from ..runs.estimate import estimate
    from ..study.status import but_for_seed

    seconds: dict[str, float | None] = {}
    every = 0.0
    for run in (each for each in runs if not each.code):
        kind = but_for_seed(run.experiment).digest
        if kind not in seconds:
            try:
                seconds[kind] = estimate(run.experiment, arguments.device, seconds=3.0, most=20).seconds
                console.print(f"{run.name}: {duration(seconds[kind] or 0.0)} of training, measured")
            except DataError as error:
                seconds[kind] = None
                console.print(f"{run.name}: not timed: {error}")
        every += seconds[kind] or 0.0
    console.print(
        f"all that was timed: {duration(every)} of training on this machine as it is now, one after the other"
    )


class Verbatim(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the description, which show a file."""


def configure(parser: Parser) -> None:
    parser.formatter_class = Verbatim
    add = parser.add_argument
    add("study", type=str, help="a YAML file, or the name of a study of the package: cpu, clean-tier, cheap, paper")
    add("--out", type=str, default=None, help="folder of the runs' folders; by default runs/NAME")
    add("--dry_run", "--dry-run", action="store_true", help="list every run, what is there already, and the cost")
    jobs = "runs at a time, each in a process of its own; 0: one after the other in this process"
    add("--estimate", action="store_true", help="with --dry_run: time a few steps of each kind of training here")
    add("--jobs", type=int, default=1, help=jobs)
    add("--threads", type=int, default=None, help="of each run; by default the processors shared among the jobs")
    add("--retry", action="store_true", help="try again what failed")
    add("--only", nargs="+", type=str, default=None, metavar="GLOB", help="runs of such names only, such as 'ebn-*'")
    folder = "where the data sets lie, also images by a relative path; as if EASYBN_DATA said it"
    add("--data_folder", type=str, default=None, help=folder)
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--checkpoint_seconds", type=float, default=60.0, help="save what is done so often")


def run(arguments: Namespace) -> None:
    from . import study_file

    if arguments.jobs < 0 or (arguments.threads is not None and arguments.threads < 1):
        raise ValueError("--jobs must be at least 0 and --threads at least 1")
    if arguments.estimate and not arguments.dry_run:
        raise ValueError("--estimate goes with --dry_run")
    if arguments.data_folder is not None:
        os.environ["EASYBN_DATA"] = arguments.data_folder  # not a field of the runs: it is no part of what they are
    study = study_file.read(study_file.find(arguments.study), run_code=not arguments.dry_run)
    runs = chosen(study, arguments.only)
    out = Path(arguments.out or f"runs/{study.name}")
    if arguments.dry_run:
        show_plan(Terminal(), study, runs, out, arguments)
    elif arguments.jobs == 0:
        from ..study.execute import in_turn

        in_turn(runs, out, arguments.threads, arguments.retry, arguments.device, arguments.checkpoint_seconds)
    else:
        in_children(runs, out, arguments)


def chosen(study: "Study", globs: list[str] | None) -> "list[Planned]":
    """The runs of such names; ValueError if a pattern fits none."""
    for glob in globs or []:
        if not any(fnmatchcase(run.name, glob) for run in study.runs):
            raise ValueError(f"--only {glob}: {study.name} has no such run; its first is {study.runs[0].name}")
    return [run for run in study.runs if globs is None or any(fnmatchcase(run.name, glob) for glob in globs)]


def in_children(runs: "list[Planned]", out: Path, arguments: Namespace) -> None:
    """Each run in a process of its own, so many at a time."""
    from ..study.execute import execute
    from ..study.state import forgive
    from ..study.status import Left, watching

    if arguments.retry:
        for each in runs:
            forgive(out / each.name)
    console = Terminal(soft_wrap=not sys.stdout.isatty())
    with watching(console, Left(runs, arguments.jobs)) as watch:
        states = execute(runs, out, lambda planned: command(planned, arguments), arguments.jobs, watch)
    finish(console, states, out, arguments)


def command(planned: "Planned", arguments: Namespace) -> list[str]:
    """That does one run, as anyone could type it."""
    script = [sys.argv[0]] if Path(sys.argv[0]).name == "easybn" else [*safe_path(), "-m", "easybn"]
    words = [sys.executable, *script, "study", arguments.study, "--only", planned.name, "--jobs", "0"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = arguments.threads
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, cores // arguments.jobs)
    for name, value in (("out", arguments.out), ("threads", threads), ("device", arguments.device)):
        words += [] if value is None else [f"--{name}", str(value)]
    return [*words, "--checkpoint_seconds", f"{arguments.checkpoint_seconds:g}"]


def safe_path() -> list[str]:
    """The option by which Python looks for no module in the working folder, unless this package is there."""
    return [] if Path(__file__).parents[2] == Path.cwd() else ["-P"]


def finish(console: Console, states: "dict[str, State]", out: Path, arguments: Namespace) -> None:
    """Say how it ended; exit status 1 if anything failed."""
    failed = {name: state for name, state in states.items() if state.kind == "failed"}
    console.print(f"{len(states) - len(failed)} of {len(states)} runs done: {out} (next: easybn table {out})")
    for name, state in failed.items():
        log = out / name / "study.log"
        console.print(f"failed: {name}: {state.error}" + f" (log: {log})" * log.exists())
    if failed:
        told = "" if arguments.out is None else f" --out {arguments.out}"
        console.print(f"once mended: easybn study {arguments.study}{told} --retry")
        raise SystemExit(1)
