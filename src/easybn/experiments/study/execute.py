"""The local executor: so many runs at a time, each in a process of its own, so that none takes another with it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from ...files import explained
from ...reading import check_regular
from ...train.interrupt import Interrupted, deferred_signals
from .plan import Planned
from .record import LOG, busy, fail
from .state import State, state

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
