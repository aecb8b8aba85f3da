"""Trains and evaluates the runs of a study: several at a time in processes of their own, or one after the other here.

A run that fails takes no other with it: its process notes why in the run's folder and ends.
"""

import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..escapes import say
from ..evaluation.config import EvaluateConfig
from ..files import check_regular, explained
from ..interrupt import Interrupted, deferred_signals
from ..progress import ProgressBars, progress_display
from ..runs.evaluate import evaluate_run
from ..runs.run import BusyError, Run, train
from ..runs.target import EvaluationTarget
from ..train.observers import ProgressBar
from ..train.prepare import usable_device
from .plan import (
    LOG,
    Planned,
    State,
    clear_failure,
    is_busy,
    missing_evaluations,
    record_evaluation,
    record_failure,
    state,
    study_lock,
)

CHILD = "EASYBN_STUDY"
"""Environment variable of the processes that a study starts: their standard input ends when the study ends."""
BUSY = 75  # exit status of a child that found another process at work (EX_TEMPFAIL of sysexits.h)
POLL_SECONDS = 0.2  # between two looks at the children
REFRESH_SECONDS = 2.0  # between two looks at the folders of unfinished runs


def train_and_evaluate(
    planned: Planned, folder: Path, device: str | None = None, checkpoint_seconds: float = 60.0
) -> None:
    """Train one run and measure it, as far as that is not done yet.

    Args:
        folder: the run's folder.
        device: where to compute; by default CUDA where there is one, else the CPU.
        checkpoint_seconds: seconds between checkpoints.

    Raises:
        BusyError: another process is working in the folder.
        easybn.interrupt.Interrupted, KeyboardInterrupt: it was asked to stop; what is done is saved.
        Exception: any other failure; it is recorded in the folder, unless that holds another run (ValueError).
    """
    run = Run(folder)
    run.check(planned.experiment)
    with study_lock(folder):
        try:
            device = str(usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
            train(
                planned.experiment,
                folder,
                observers=[ProgressBar("training")],
                device=device,
                checkpoint_seconds=checkpoint_seconds,
                on_note=lambda note: say(f"note: {note}"),
            )
            targets: dict[str | None, EvaluationTarget] = {}  # images are read and models loaded once
            for each in missing_evaluations(folder, planned.evaluations):
                target = targets.setdefault(each.branch, EvaluationTarget.of_run(run, each.branch))
                began = time.monotonic()
                findings = _measured(target, each, device)
                record_evaluation(folder, each, time.monotonic() - began, findings)
        except (Interrupted, BusyError):
            raise
        except Exception as error:
            record_failure(folder, str(error) or type(error).__name__)
            raise


def _measured(target: EvaluationTarget, config: EvaluateConfig, device: str) -> list[dict[str, Any]]:
    """Write the evaluation's rows to the run's scores; returns the findings of the diagnosis."""
    with progress_display() as display:
        bars = ProgressBars(display, target.run.folder.name, "evaluation" if config.is_pgd else None)
        result = evaluate_run(target, replace(config, device=device), bars)
    if not result.complete and not config.budget:
        raise BusyError(f"another process is computing a part of the verdicts in {result.store}")
    for finding in result.findings:
        say(str(finding))
    return [asdict(finding) for finding in result.findings]


@dataclass
class StudyStatus:
    """Where the runs of a study are.

    Args:
        states: state of every run, by name, in the order of the study.
        here: names of the runs that a child of this process is working on.
        elsewhere: names of the runs that another process is working on.
    """

    states: dict[str, State]
    here: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)


OnStatus = Callable[[StudyStatus], None]


def parallel(
    runs: Sequence[Planned], out: Path, command: Callable[[Planned], list[str]], jobs: int, on_status: OnStatus
) -> dict[str, State]:
    """Do every run that has not failed, each in a process of its own; wait for runs that other processes work on.

    Args:
        out: folder of the runs' folders.
        command: gives the command line that does one run, in this folder and environment, by :func:`sequential`. Its
            standard input is a pipe that ends when this process ends, so that it can stop too.
        jobs: number of processes at a time.
        on_status: called every two seconds or so, and at the end.

    Returns:
        The state of every run at the end.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after every child has stopped.
    """
    planned = {run.name: run for run in runs}
    status = StudyStatus({name: state(run, out / name) for name, run in planned.items()})
    refreshed = -REFRESH_SECONDS
    with _children() as children, deferred_signals() as requests:
        while True:
            for name in [name for name, child in children.items() if child.poll() is not None]:
                with children.pop(name) as child:
                    code = child.returncode
                status.states[name] = state(planned[name], out / name)
                if code == BUSY:
                    status.elsewhere.add(name)
                elif status.states[name].kind not in ("done", "failed"):
                    if requests.signum is None:
                        record_failure(out / name, _ended(code))
                    status.states[name] = state(planned[name], out / name)
                    if not (out / name).exists():
                        gone = f"{out / name} was removed while a process was working in it"
                        status.states[name] = replace(status.states[name], kind="failed", error=gone)
            if requests.signum is not None:
                break
            now = time.monotonic()
            if refresh := now - refreshed > REFRESH_SECONDS:
                refreshed = now
                status.elsewhere = {name for name in status.elsewhere if is_busy(out / name)}
                for name in {*children, *status.elsewhere}:
                    status.states[name] = state(planned[name], out / name)
            for name in planned:
                if len(children) >= jobs:
                    break
                if name in children or name in status.elsewhere or status.states[name].kind in ("done", "failed"):
                    continue
                status.states[name] = state(planned[name], out / name)  # another process may have done it by now
                if status.states[name].kind in ("done", "failed"):
                    continue
                if is_busy(out / name):
                    status.elsewhere.add(name)
                else:
                    children[name] = _start(command(planned[name]), out / name)
            status.here = set(children)
            if not children and not status.elsewhere:
                on_status(status)
                return status.states
            if refresh:
                on_status(status)
            time.sleep(POLL_SECONDS)
        for child in children.values():
            child.terminate()
        for child in children.values():
            child.wait()
    status.states = {name: state(run, out / name) for name, run in planned.items()}
    status.here = set()
    on_status(status)
    assert requests.signum is not None
    raise Interrupted(requests.signum, "stopped; everything done so far is saved: run the same command to continue")


@contextmanager
def _children() -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Processes by the name of their run; none of them outlives the block."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        yield children
    finally:  # also after an error or a second Ctrl-C
        for child in children.values():
            with child:
                if child.poll() is None:
                    child.kill()


def _start(command: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    with explained(folder / LOG), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / LOG).is_symlink():  # of a folder made by somebody else: the log would be appended to another file
            raise ValueError(f"{folder / LOG} is a link: remove it")
        if (folder / LOG).exists():
            check_regular(folder / LOG)
        log = stack.enter_context((folder / LOG).open("ab"))
        log.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(command[1:])}\n".encode())
        log.flush()
        # in its own session, so that Ctrl-C reaches it once, through this process
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, CHILD: "1"}, start_new_session=True,
        )  # fmt: skip


def _ended(status: int) -> str:
    """Why a child died that could not record it itself."""
    if status == -signal.SIGKILL:
        return "killed (signal 9): out of memory?"
    if status < 0:
        return f"killed by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with status {status} and no message" if status else "ended before everything was done"


def sequential(
    runs: Sequence[Planned],
    out: Path,
    threads: int | None = None,
    retry: bool = False,
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Do the runs one after the other in this process, and print how each ended; :func:`parallel`'s children do one so.

    Args:
        runs: in this order.
        out: folder of the runs' folders.
        threads: number of torch's threads; by default unchanged.
        retry: try failed runs again.
        device, checkpoint_seconds: see :func:`train_and_evaluate`.

    Raises:
        SystemExit: after all runs: status 1 if one failed, else ``BUSY`` if another process is working on one.
        Interrupted: it was asked to stop; what is done is saved.
    """
    if os.environ.get(CHILD):
        _stop_with_the_parent()
    if threads is not None:
        torch.set_num_threads(threads)
    busy = failed = False
    for planned in runs:
        folder = out / planned.name
        if retry:
            clear_failure(folder)
        found = state(planned, folder)
        if found.kind == "done":
            continue
        try:
            if found.kind == "failed":
                raise ValueError(found.error)
            train_and_evaluate(planned, folder, device, checkpoint_seconds)
            say(f"done: {folder}")
        except Interrupted:
            raise
        except BusyError as error:
            busy = True
            say(f"busy: {error}")
        except (ValueError, OSError, ArithmeticError) as error:
            failed = True
            say(f"failed: {planned.name}: {' '.join(str(error).split())}")
        except Exception:  # a bug in easybn
            failed = True
            say(traceback.format_exc(), error=True)
    if failed or busy:
        raise SystemExit(1 if failed else BUSY)


def _stop_with_the_parent() -> None:
    """Stop cleanly on SIGTERM, or when the study that started this process has ended."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def wait() -> None:
        os.read(0, 1)  # a pipe that ends when the parent does
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait, daemon=True).start()
