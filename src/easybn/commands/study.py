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
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import DefaultHelpFormatter, Namespace
from rich.console import Console

from ..terminal import Terminal
from .arguments import Parser

if TYPE_CHECKING:
    from ..experiments.study.plan import Planned, Study
    from ..experiments.study.state import State


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
        from .show_study import show_plan

        show_plan(Terminal(), study, runs, out, arguments)
    elif arguments.jobs == 0:
        from ..experiments.study.in_turn import in_turn

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
    from ..experiments.study.execute import execute
    from ..experiments.study.left import Left
    from ..experiments.study.record import forgive
    from ..experiments.study.watch import watching

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
