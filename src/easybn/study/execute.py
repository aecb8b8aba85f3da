"""The local executor: so many runs at a time, each in a process of its own, so that none takes another with it."""

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
from ..files import check_regular, explained
from ..interrupt import Interrupted, deferred_signals
from ..progress import AttackBars
from ..runs.evaluate import Attacks, measure, score
from ..runs.run import BusyError, Run, train
from ..runs.target import Evaluated
from ..train.observers import ProgressBar, training_progress
from ..train.prepare import usable_device
from .plan import Planned, Wanted
from .state import LOG, State, add_evaluated, at_work, busy, fail, forgive, missing, state

# One run of a study: trained, stripped and evaluated, as far as that is missing.


def work(planned: Planned, folder: Path, device: str | None = None, checkpoint_seconds: float = 60.0) -> None:
    """Do what is missing of a run.

    Args:
        folder: of the run.
        device: where to compute; by default CUDA where there is one, else the CPU.

    Raises:
        BusyError: another process is at work there.
        easybn.interrupt.Interrupted, KeyboardInterrupt: it was asked to stop; what is done is saved.
        Exception: anything else; it is noted in the folder, unless that is of another experiment (ValueError).
    """
    run = Run(folder)
    run.check(planned.experiment)
    with at_work(folder):
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
            subjects: dict[str | None, Evaluated] = {}  # the images are read and the model is loaded once
            for each in missing(folder, planned.wanted):
                subject = subjects.setdefault(each.branch, Evaluated.of_run(run, each.branch))
                began = time.monotonic()
                findings = _measured(subject, each, device)
                add_evaluated(folder, each, time.monotonic() - began, findings)
        except (Interrupted, BusyError):
            raise
        except Exception as error:
            fail(folder, str(error) or type(error).__name__)
            raise


def _measured(subject: Evaluated, wanted: Wanted, device: str) -> list[dict[str, Any]]:
    """Have the rows of an evaluation among the scores; returns what the diagnosis found."""
    what = replace(wanted.what, device=device)
    with training_progress() as display:
        if not isinstance(what, Attacks):
            score(subject.run, display, what, subject)
            return []
        found = measure(subject, what, AttackBars(display, subject.run.folder.name))
    if not found.evaluation.complete and not what.budget:
        raise BusyError(f"another process has a part of the verdicts in {found.store}")
    for finding in found.findings:
        say(str(finding))
    return [asdict(finding) for finding in found.findings]


CHILD = "EASYBN_STUDY"
"""Set in the environment of the processes that do runs: their standard input ends when the study does."""
BUSY = 75  # exit status of a child that found another process at work (EX_TEMPFAIL of sysexits.h)
_TICK = 0.2  # seconds between two looks at the children
_PATIENCE = 2.0  # seconds between two looks at runs that other processes are at


@dataclass
class Progress:
    """What a watcher is shown.

    Args:
        states: of every run, by name, in the order of the study.
        here: names of the runs that this process has a child for.
        elsewhere: names of the runs that another process is at.
    """

    states: dict[str, State]
    here: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)


Watch = Callable[[Progress], None]


def execute(
    runs: Sequence[Planned], out: Path, command: Callable[[Planned], list[str]], jobs: int, watch: Watch
) -> dict[str, State]:
    """Have every run done that has not failed; a run that another process is at is waited for.

    Args:
        out: folder of the runs' folders.
        command: that does one run, in this folder and environment, as :func:`~.work.work` does. Its standard input is
            a pipe that ends when this process does, so that it can stop too.
        jobs: how many at a time.
        watch: called now and then.

    Returns:
        The state of every run at the end.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after every child has stopped.
    """
    planned = {run.name: run for run in runs}
    seen = Progress({name: state(run, out / name) for name, run in planned.items()})
    looked = -_PATIENCE
    with _children() as children, deferred_signals() as requests:
        while True:
            for name in [name for name, child in children.items() if child.poll() is not None]:
                with children.pop(name) as child:
                    status = child.returncode
                seen.states[name] = state(planned[name], out / name)
                if status == BUSY:
                    seen.elsewhere.add(name)
                elif seen.states[name].kind not in ("done", "failed"):
                    if requests.signum is None:
                        fail(out / name, _ended(status))
                    seen.states[name] = state(planned[name], out / name)
                    if not (out / name).exists():
                        gone = f"{out / name} was removed while it was worked on"
                        seen.states[name] = replace(seen.states[name], kind="failed", error=gone)
            if requests.signum is not None:
                break
            now = time.monotonic()
            if fresh := now - looked > _PATIENCE:
                looked = now
                seen.elsewhere = {name for name in seen.elsewhere if busy(out / name)}
                for name in {*children, *seen.elsewhere}:
                    seen.states[name] = state(planned[name], out / name)
            for name in planned:
                if len(children) >= jobs:
                    break
                if name in children or name in seen.elsewhere or seen.states[name].kind in ("done", "failed"):
                    continue
                seen.states[name] = state(planned[name], out / name)  # another process may have done it by now
                if seen.states[name].kind in ("done", "failed"):
                    continue
                if busy(out / name):
                    seen.elsewhere.add(name)
                else:
                    children[name] = _start(command(planned[name]), out / name)
            seen.here = set(children)
            if not children and not seen.elsewhere:
                watch(seen)
                return seen.states
            if fresh:
                watch(seen)
            time.sleep(_TICK)
        for child in children.values():
            child.terminate()
        for child in children.values():
            child.wait()
    seen.states = {name: state(run, out / name) for name, run in planned.items()}
    seen.here = set()
    watch(seen)
    assert requests.signum is not None
    raise Interrupted(requests.signum, "stopped, all that was done is saved: the same command goes on from there")


@contextmanager
def _children() -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """The processes by name of their run; at the end of the block none is left."""
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
        if (folder / LOG).is_symlink():  # in a folder of somebody else's: it would be added to another file
            raise ValueError(f"{folder / LOG} is a link: remove it")
        if (folder / LOG).exists():
            check_regular(folder / LOG)
        log = stack.enter_context((folder / LOG).open("ab"))
        log.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(command[1:])}\n".encode())
        log.flush()
        # in a session of its own, so that Ctrl-C reaches it through us alone, once
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, CHILD: "1"}, start_new_session=True,
        )  # fmt: skip


def _ended(status: int) -> str:
    """A child's death that it could not note itself."""
    if status == -signal.SIGKILL:
        return "killed (signal 9): out of memory?"
    if status < 0:
        return f"killed by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with status {status} and left no word" if status else "ended before everything was done"


# Runs of a study one after the other, in this process; the processes of the local executor do one run so.


def in_turn(
    runs: Sequence[Planned],
    out: Path,
    threads: int | None = None,
    retry: bool = False,
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Do what is missing of each run, and say how it ended.

    Args:
        runs: what to do, in this order.
        out: folder of the runs' folders.
        threads: of torch; by default as they are.
        retry: try again what failed before.
        device, checkpoint_seconds: see :func:`.work.work`.

    Raises:
        SystemExit: with 1 if a run failed, else with ``BUSY`` if another process is at one; after all of them.
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
            forgive(folder)
        found = state(planned, folder)
        if found.kind == "done":
            continue
        try:
            if found.kind == "failed":
                raise ValueError(found.error)
            work(planned, folder, device, checkpoint_seconds)
            say(f"done: {folder}")
        except Interrupted:
            raise
        except BusyError as error:
            busy = True
            say(f"busy: {error}")
        except (ValueError, OSError, ArithmeticError) as error:
            failed = True
            say(f"failed: {planned.name}: {' '.join(str(error).split())}")
        except Exception:  # a mistake of ours
            failed = True
            say(traceback.format_exc(), error=True)
    if failed or busy:
        raise SystemExit(1 if failed else BUSY)


def _stop_with_the_parent() -> None:
    """Stop in good order when asked to, or when the study that started this process is gone."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def wait() -> None:
        os.read(0, 1)  # a pipe that ends when the parent does
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait, daemon=True).start()
