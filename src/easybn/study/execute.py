"""Trains and evaluates the runs of a study: here, in processes of this machine, or in those of an executor.

However it is started, one run is done by :func:`do`, and many are looked after by :class:`Supervisor`. A run that fails
takes no other with it: its process notes why in the run's folder and ends.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from ..escapes import say
from ..evaluation.corruptions import AnyConfig, CorruptionConfig
from ..interrupt import CHILD, Interrupted, Requests, deferred_signals, stop_with_the_parent
from ..memory import is_out_of_memory
from ..progress import ProgressBars, progress_display
from ..runs.corruptions import evaluate_run_corrupted
from ..runs.evaluate import evaluate_run
from ..runs.run import BusyError, Run, train
from ..runs.target import EvaluationTarget
from ..train.observers import ProgressBar
from ..train.prepare import usable_device
from .plan import Planned, missing_evaluations, record_evaluation, state, study_lock
from .process import Process
from .state import LOG, State, StudyStatus, clear_failure, is_busy, lacked_memory, record_failure, record_retry
from .status import OnStatus

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
            memory = is_out_of_memory(error)
            text = str(error) or type(error).__name__
            record_failure(folder, f"not enough memory: {text}" if memory else text, memory)
            raise


def _measured(target: EvaluationTarget, config: AnyConfig, device: str) -> list[dict[str, Any]]:
    """Write the evaluation's rows to the run's scores; returns the findings of the diagnosis."""
    with progress_display() as display:
        if isinstance(config, CorruptionConfig):
            bars = ProgressBars(display, target.run.folder.name)
            evaluate_run_corrupted(target, replace(config, device=device), bars)
            return []
        bars = ProgressBars(display, target.run.folder.name, "evaluation" if config.is_pgd else None)
        result = evaluate_run(target, replace(config, device=device), bars)
    if not result.complete and not config.budget:
        raise BusyError(f"another process is computing a part of the verdicts in {result.store}")
    for finding in result.findings:
        say(str(finding))
    return [asdict(finding) for finding in result.findings]


def do(planned: Planned, out: Path, device: str | None = None, checkpoint_seconds: float = 60.0) -> int:
    """Do one run in this process, unless it is done or has failed, and print how it ended.

    Args:
        out: folder of the runs' folders.
        device, checkpoint_seconds: see :func:`train_and_evaluate`.

    Returns:
        0; 1 if it failed; ``BUSY`` if another process is working on it.

    Raises:
        Interrupted: it was asked to stop; what is done is saved.
    """
    folder = out / planned.name
    found = state(planned, folder)
    if found.kind == "done":
        return 0
    try:
        if found.kind == "failed":
            raise ValueError(found.error)
        train_and_evaluate(planned, folder, device, checkpoint_seconds)
        say(f"done: {folder}")
        return 0
    except Interrupted:
        raise
    except BusyError as error:
        say(f"busy: {error}")
        return BUSY
    except (ValueError, OSError, ArithmeticError) as error:
        say(f"failed: {planned.name}: {' '.join(str(error).split())}")
    except Exception as error:  # a bug in easybn, unless the memory did not suffice
        say(f"failed: {planned.name}: {error}" if is_out_of_memory(error) else traceback.format_exc(), error=True)
    return 1


def sequential(
    runs: Sequence[Planned],
    out: Path,
    threads: int | None = None,
    retry: bool = False,
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Do the runs one after the other in this process, see :func:`do`; :func:`parallel`'s children do one so.

    Args:
        runs: in this order.
        threads: number of torch's threads; by default unchanged.
        retry: try failed runs again.

    Raises:
        SystemExit: after all runs: status 1 if one failed, else ``BUSY`` if another process is working on one.
        Interrupted: it was asked to stop; what is done is saved.
    """
    if os.environ.get(CHILD):
        stop_with_the_parent()
    if threads is not None:
        torch.set_num_threads(threads)
    statuses = set()
    for planned in runs:
        if retry:
            clear_failure(out / planned.name)
        statuses.add(do(planned, out, device, checkpoint_seconds))
    if statuses - {0}:
        raise SystemExit(1 if 1 in statuses else BUSY)


class Job(Protocol):
    """One run that was started."""

    def poll(self) -> int | str | None:
        """Its exit status, as of :func:`do`; a text that says how its process was lost; None while it goes on."""
        ...

    def stop(self) -> None:
        """Ask it to save and end, or not to begin; it is waited for as long as :meth:`poll` says that it goes on."""
        ...

    def close(self) -> None:
        """End it now, if it goes on."""
        ...


class Supervisor:
    """Does every run that has not failed, a number at a time, and keeps their states.

    A run on which another process works is waited for. One that runs out of memory beside others is tried again alone,
    once all others have ended. One whose process is lost is started once more.

    Args:
        out: folder of the runs' folders.
        start: starts one run; None if it cannot start any more.
        jobs: number of runs at a time.
        on_status: called every two seconds or so, and at the end.
    """

    def __init__(
        self,
        runs: Sequence[Planned],
        out: Path,
        start: Callable[[Planned], Job | None],
        jobs: float,
        on_status: OnStatus,
    ):
        self._planned = {run.name: run for run in runs}
        self._out, self._start, self._most, self._on_status = out, start, jobs, on_status
        self._jobs: dict[str, Job] = {}
        self._beside: set[str] = set()  # jobs that have had another one beside them
        self._lost: dict[str, str] = {}  # runs whose process was lost once, and how
        self.refuses: bool = False  # whether ``start`` starts nothing any more
        self.status: StudyStatus = StudyStatus({name: self._state(name) for name in self._planned})

    def __call__(self, requests: Requests) -> dict[str, State]:
        """Do the runs.

        Args:
            requests: to stop, by a signal.

        Returns:
            The state of every run at the end.

        Raises:
            Interrupted: it was asked to stop; every run has stopped that can be stopped from here.
        """
        refreshed = -REFRESH_SECONDS
        try:
            while requests.signum is None:
                self._collect()
                now = time.monotonic()
                if refresh := now - refreshed > REFRESH_SECONDS:
                    refreshed = now
                    self._refresh()
                if requests.signum is None:
                    self._fill()
                if not self._jobs and not (self.status.elsewhere and not self.refuses):
                    if self.refuses:
                        self._give_up()
                    self._on_status(self.status)
                    return self.status.states
                if refresh:
                    self._on_status(self.status)
                time.sleep(POLL_SECONDS)
            for job in self._jobs.values():
                job.stop()
            while any(job.poll() is None for job in self._jobs.values()):
                time.sleep(POLL_SECONDS)
        finally:  # also after an error or a second Ctrl-C
            for job in self._jobs.values():
                job.close()
        self.status = StudyStatus({name: self._state(name) for name in self._planned})
        self._on_status(self.status)
        raise Interrupted(requests.signum, "stopped; everything done so far is saved: run the same command to continue")

    def _state(self, name: str) -> State:
        return state(self._planned[name], self._out / name)

    def _collect(self) -> None:
        """Take note of the jobs that have ended."""
        for name, job in list(self._jobs.items()):
            if (result := job.poll()) is not None:
                del self._jobs[name]
                job.close()
                self.status.states[name] = self._ended(name, result)
        self.status.here = set(self._jobs)

    def _ended(self, name: str, result: int | str) -> State:
        """The state of a run whose job has ended, after what follows from how it ended was recorded."""
        folder, beside = self._out / name, name in self._beside
        self._beside.discard(name)
        found = self._state(name)
        killed = result == -signal.SIGKILL
        memory = lacked_memory(folder) if found.kind == "failed" else killed and not found.ended
        error = found.error or ("killed (signal 9): out of memory?" if killed else _why(result))
        if result == BUSY:
            self.status.elsewhere.add(name)
        elif memory and beside and not found.retried:
            record_retry(folder, error)
        elif memory:
            record_failure(folder, f"{error} (no other run of this study was beside it)", memory=True)
        elif isinstance(result, str) and not found.ended and name not in self._lost:
            self._lost[name] = result  # to be started once more
        elif not found.ended:
            record_failure(folder, error)
            if not folder.exists():
                error = f"{folder} was removed while a process was working in it"
                return replace(found, kind="failed", error=error)
        return self._state(name)

    def _give_up(self) -> None:
        """Record how runs were lost that cannot be started once more; those that never began have not failed."""
        for name, why in self._lost.items():
            if not self.status.states[name].ended and (self._out / name / LOG).exists():
                record_failure(self._out / name, f"its process was lost, and no more can be started: {why}")
                self.status.states[name] = self._state(name)

    def _refresh(self) -> None:
        """Look again at the folders of runs that are under way, here or elsewhere."""
        self.status.elsewhere = {name for name in self.status.elsewhere if is_busy(self._out / name)}
        for name in {*self._jobs, *self.status.elsewhere}:
            self.status.states[name] = self._state(name)

    def _fill(self) -> None:
        """Start what can be started now."""
        states, busy = self.status.states, {*self._jobs, *self.status.elsewhere}
        if any(states[name].retried for name in self._jobs):
            return  # nothing is started beside it
        left = [name for name in self._planned if name not in busy and not states[name].ended]
        together = [name for name in left if not states[name].retried]
        for name in together or (left[:1] if not busy else []):
            if len(self._jobs) >= self._most or self.refuses:
                break
            states[name] = self._state(name)  # another process may have done it by now
            if states[name].ended or (states[name].retried and self._jobs):
                continue
            if is_busy(self._out / name):
                self.status.elsewhere.add(name)
            elif job := self._start(self._planned[name]):
                self._jobs[name] = job
            else:
                self.refuses = True
        if len(self._jobs) > 1:
            self._beside |= set(self._jobs)
        self.status.here = set(self._jobs)


def parallel(
    runs: Sequence[Planned], out: Path, command: Callable[[Planned], list[str]], jobs: int, on_status: OnStatus
) -> dict[str, State]:
    """Do every run that has not failed, each in a process of its own, see :class:`Supervisor`.

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
    supervisor = Supervisor(runs, out, lambda run: Process(command(run), out / run.name), jobs, on_status)
    with deferred_signals() as requests:
        return supervisor(requests)


def _why(status: int | str) -> str:
    """Why a child died that could not record it itself."""
    if isinstance(status, str):
        return f"its process was lost twice: {status}"
    if status < 0:
        return f"killed by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with status {status} and no message" if status else "ended before everything was done"
