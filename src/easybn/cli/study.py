"""Train and evaluate a grid of runs described by one YAML file; what is done already is not done again.

Stop it with Ctrl-C, kill it or lose the machine: the same command continues, and ends with the same rows as a study
that was never interrupted. Each run is an ordinary folder of easybn train, OUT/NAME-SEED; a run that easybn train made
there is used. A run that fails is reported and does not affect the others; --retry tries it again. Several of these
commands may work on one folder. --status says at once how it stands: what runs where, what failed and why, and the time
that remains. --dry_run lists the runs, and with --estimate how long their trainings take here. A run that runs out of
memory beside others is tried again alone, after all others.

runs:                                # each: a config of the package or a file, and any fields to change in it
  - config: fashion-mnist-vanilla
  - {name: ebn-8, config: fashion-mnist-ebn, recipe.attack.ball.eps: 8/255}
grid:                                # every run with each of these values of any field
  seed: [0, 1, 2]
evaluate:                            # options of easybn evaluate; clean accuracy is always measured
  - {points: 200, batch_size: 200}
  - {attacks: [autoattack], norm: linf, eps: 8/255, points: 200}

easybn study cpu --jobs 2
easybn study cpu --status
easybn study paper --dry_run
easybn study my_study.yaml --only 'ebn-*' --retry
easybn study my_study.yaml --executor slurm --slurm.partition gpu --slurm.gpus 1 --slurm.time 240

--executor slurm: each run is an element of a job array, submitted from here; OUT must be on a file system that nodes
share. This command waits and shows the status; Ctrl-C leaves the jobs to themselves, and the same command shows them
again. A job that loses its node, is preempted or reaches its time limit is queued again and goes on.
"""

import os
import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import DefaultHelpFormatter, Namespace
from rich.console import Console

from ..interrupt import CHILD
from ..tables.formats import show
from ..tables.table import Cell, Table, TableRow
from ..terminal import Terminal
from .arguments import Parser, add_executor_options, easybn, slurm_options_of
from .study_status import chosen, find_study, show_status

if TYPE_CHECKING:
    from ..study.plan import Planned, Study
    from ..study.slurm import SlurmOptions
    from ..study.state import State


class Verbatim(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help that keeps the line breaks of the description, which shows a file."""


def configure(parser: Parser) -> None:
    parser.formatter_class = Verbatim
    add = parser.add_argument
    which = "a YAML file, or the name of a study of the package: cpu, clean-tier, cheap, paper; with --status also OUT"
    add("study", type=str, help=which)
    add("--out", type=str, default=None, help="folder for the runs' folders; by default runs/NAME")
    add("--dry_run", "--dry-run", action="store_true", help="only list the runs and what is done of each")
    status = "only say how the study stands that was started: what runs where, what failed and why, the time remaining"
    add("--status", action="store_true", help=status)
    add("--estimate", action="store_true", help="with --dry_run: time a few steps of each kind of training here")
    jobs = "number of runs at a time, each in its own process; 0: one after the other in this process"
    add("--jobs", type=int, default=1, help=jobs)
    threads = "threads of each run; by default the processors divided by the number of jobs"
    add("--threads", type=int, default=None, help=threads)
    add("--retry", action="store_true", help="try failed runs again")
    only = "only runs whose names match, such as 'ebn-*'"
    add("--only", nargs="+", type=str, default=None, metavar="GLOB", help=only)
    folder = "folder of the data sets, also for images given by a relative path; overrides EASYBN_DATA"
    add("--data_folder", type=str, default=None, help=folder)
    add("--device", type=str, default=None, help="cpu, cuda, cuda:1; by default cuda if there is one")
    add("--checkpoint_seconds", type=float, default=60.0, help="seconds between checkpoints")
    add_executor_options(parser, "each run")


def run(arguments: Namespace) -> None:
    if arguments.jobs < 0 or (arguments.threads is not None and arguments.threads < 1):
        raise ValueError("--jobs must be at least 0 and --threads at least 1")
    if arguments.estimate and not arguments.dry_run:
        raise ValueError("--estimate goes with --dry_run")
    if arguments.data_folder is not None:
        os.environ["EASYBN_DATA"] = arguments.data_folder  # not a field of the runs, since it does not change them
    if arguments.status and show_status(arguments.study, arguments.out, arguments.only):
        return
    from ..study.plan_file import plan_of, write_plan
    from . import study_file

    slurm = slurm_options_of(arguments)
    listing = arguments.dry_run or arguments.status
    file = find_study(arguments.study)
    study = study_file.read(file, run_code=not listing)
    runs = chosen(study.name, study.runs, arguments.only)
    out = Path(arguments.out or f"runs/{study.name}")
    if not listing and not os.environ.get(CHILD):
        write_plan(out, plan_of(study.name, [run.expected for run in study.runs], file))
    if listing:
        seconds = training_seconds(runs, arguments.device) if arguments.estimate else {}
        show_plan(Terminal(), study, runs, out, seconds)
    elif slurm is not None:
        in_jobs(runs, out, arguments, slurm)
    elif arguments.jobs == 0:
        from ..study.execute import sequential

        sequential(runs, out, arguments.threads, arguments.retry, arguments.device, arguments.checkpoint_seconds)
    else:
        in_processes(runs, out, arguments)


def show_plan(
    console: Console, study: "Study", runs: "list[Planned]", out: Path, seconds: dict[str, float | str]
) -> None:
    """List every run with its status.

    Args:
        seconds: of the whole training by the run's name, or why it could not be timed; empty if none was timed.
    """
    from ..study.plan import state
    from .train import duration

    lines, total, remaining = [], 0.0, 0.0
    for run in runs:
        timed = seconds.get(run.name, "not measured")
        if run.code:
            status = _status_of_folder(out / run.name)
        else:
            found = state(run, out / run.name)
            status = {"waiting": "not started"}.get(found.kind, f"failed: {found.error}" if found.error else str(found))
            if isinstance(timed, float):
                total += timed
                remaining += timed * (1 - found.epoch / found.epochs)
        lines.append(
            TableRow(run.name, [Cell(status), Cell(timed if isinstance(timed, str) else f"{timed / 60:,.1f}")])
        )
    caption = (
        "Minutes of the whole training on this machine as it is now, from a few timed steps; evaluation not included."
        if seconds
        else "How long the trainings take on this machine: --estimate."
    )
    columns, numeric = ["status", "training, minutes"], [False, not any(isinstance(s, str) for s in seconds.values())]
    show(Table(f"{study.name}: {len(runs)} runs in {out}", "run", columns, lines, caption, numeric), console)
    console.print(f"measured of each: {'; '.join(map(str, runs[0].evaluations))}")
    if total:
        console.print(f"all trainings one after the other: {duration(total)}; {duration(remaining)} remaining")
    if study.attacks_not_loaded:
        console.print(f"and by attacks whose code --dry_run does not run: {', '.join(study.attacks_not_loaded)}")
    if code := sorted({run.code for run in runs if run.code}):
        console.print(f"not timed, because --dry_run runs no code that a file names: {', '.join(code)}")


def _status_of_folder(folder: Path) -> str:
    """Status of a run whose recipe was not imported, from its folder alone."""
    from ..runs.run import Run

    run = Run(folder)
    return "has a model" if run.finished else "has a checkpoint" if run.started else "not started"


def training_seconds(runs: "list[Planned]", device: str | None) -> dict[str, float | str]:
    """Seconds of each run's training by name, or why it was not timed; runs that differ in the seed are timed once."""
    from ..data import DataError
    from ..progress import shown
    from ..runs.prepare import estimate
    from ..study.plan import but_for_seed

    by_kind: dict[str, float | str] = {}
    out: dict[str, float | str] = {}
    with shown(None) as on_progress:
        for number, run in enumerate(runs, 1):
            if run.code:
                continue
            kind = but_for_seed(run.experiment).digest
            if kind not in by_kind:
                try:
                    by_kind[kind] = estimate(run.experiment, device, seconds=3.0, most=20).seconds
                except DataError as error:
                    by_kind[kind] = f"not measured: {error}"
            out[run.name] = by_kind[kind]
            on_progress(number, len(runs), "timing")
    return out


def in_processes(runs: "list[Planned]", out: Path, arguments: Namespace) -> None:
    """Do each run in its own process, ``--jobs`` at a time, and show their status."""
    from ..study.execute import parallel
    from ..study.state import clear_failure
    from ..study.status import RemainingTime, live_status

    if arguments.retry:
        for each in runs:
            clear_failure(out / each.name)
    console = Terminal(soft_wrap=not sys.stdout.isatty())
    with live_status(console, RemainingTime([each.expected for each in runs], arguments.jobs)) as on_status:
        states = parallel(runs, out, lambda planned: command(planned, arguments), arguments.jobs, on_status)
    finish(console, states, out, arguments)


def in_jobs(runs: "list[Planned]", out: Path, arguments: Namespace, slurm: "SlurmOptions") -> None:
    """Do each run in a Slurm job, and show their status until all have ended, or only submit them."""
    from ..study.in_jobs import study_on_slurm
    from ..study.state import clear_failure
    from ..study.status import RemainingTime, live_status

    if arguments.retry:
        for each in runs:
            clear_failure(out / each.name)
    console = Terminal(soft_wrap=not sys.stdout.isatty())
    at_once = min(len(runs), slurm.at_once or len(runs))
    with live_status(console, RemainingTime([each.expected for each in runs], at_once)) as on_status:
        wait = not arguments.slurm.detach
        states = study_on_slurm(runs, out, lambda planned: command(planned, arguments), slurm, on_status, wait)
    if wait:
        finish(console, states, out, arguments)


def command(planned: "Planned", arguments: Namespace) -> list[str]:
    """The command line that does one run; it can be typed as well."""
    words = [*easybn(), "study", arguments.study, "--only", planned.name, "--jobs", "0"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = arguments.threads
    if threads is None and "OMP_NUM_THREADS" not in os.environ and arguments.executor == "local":
        threads = max(1, cores // arguments.jobs)
    for name, value in (
        ("out", arguments.out),
        ("threads", threads),
        ("device", arguments.device),
        ("data_folder", arguments.data_folder),
    ):
        words += [] if value is None else [f"--{name}", str(value)]
    return [*words, "--checkpoint_seconds", f"{arguments.checkpoint_seconds:g}"]


def finish(console: Console, states: "dict[str, State]", out: Path, arguments: Namespace) -> None:
    """Print how the study ended; exit status 1 if a run failed."""
    failed = {name: state for name, state in states.items() if state.kind == "failed"}
    console.print(f"{len(states) - len(failed)} of {len(states)} runs done: {out} (next: easybn table {out})")
    for name, state in failed.items():
        log = out / name / "study.log"
        console.print(f"failed: {name}: {state.error}" + f" (log: {log})" * log.exists())
    if failed:
        out_option = "" if arguments.out is None else f" --out {arguments.out}"
        console.print(f"to try them again: easybn study {arguments.study}{out_option} --retry")
        raise SystemExit(1)
