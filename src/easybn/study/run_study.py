"""A study from Python: here, or by any executor with the interface of concurrent.futures.

What an executor gets to do is small: start one process for one run, and wait for it. So a run that is killed does not
take its worker along, whatever the executor is (processes, threads, dask's workers on other machines), and a worker
that dies lets its run save and stop. The process reads what to do from its standard input: it is ``python -m
easybn.study``, see :func:`main`. Executors on other machines need the same folders.
"""

import io
import math
import os
import pickle
import socket
import sys
import sysconfig
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import torch

from ..escapes import say
from ..files import scratch_folder
from ..interrupt import Interrupted, Requests, deferred_signals, stop_with_the_parent
from ..user_code import import_code, is_user_code, permit
from .execute import Job, Supervisor, do
from .plan import Planned, Study
from .plan_file import plan_of, write_plan
from .process import STOPPED, do_in_process
from .state import State, StudyStatus, clear_failure, record_failure
from .status import OnStatus


def run_study(
    study: Study,
    out: Path | str,
    executor: Any = None,
    *,
    retry: bool = False,
    device: str | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 60.0,
    on_status: OnStatus | None = None,
) -> dict[str, State]:
    """Train and evaluate the runs of a study, as far as they are not done.

    Args:
        study: the runs. A recipe, schedule or attack of yours must be in a file of its own, which is imported where
            the run is done, and so are data sets and models named as ``my.py:make``.
        out: folder of the runs' folders; ``easybn study OUT --status`` shows how they stand.
        executor: anything that has ``submit`` as executors of concurrent.futures do, such as ProcessPoolExecutor,
            ThreadPoolExecutor, dask's ``client.get_executor()``, joblib's loky. All runs are submitted at once, and
            each is done in a process of its own below the executor's worker. By default they are done here, one after
            the other.
        retry: try failed runs again.
        device: where to compute; by default CUDA where there is one, else the CPU.
        threads: of each run; give it where several run on one machine.
        checkpoint_seconds: seconds between checkpoints.
        on_status: called every two seconds or so with where the runs are, and at the end.

    Returns:
        The state of every run by name: "done", "failed" with the ``error``; others only if the executor broke.

    Raises:
        ValueError: a run that cannot be sent to other processes.
        TypeError: ``executor`` is no executor.
        easybn.interrupt.Interrupted: Ctrl-C or SIGTERM: what has not begun is cancelled, the rest saves and stops.
        KeyboardInterrupt: Ctrl-C during an evaluation without an executor.
    """
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor: {type(executor).__name__} has no submit(function, ...): give an Executor")
    out = Path(out).absolute()
    if unread := [run.name for run in study.runs if run.code]:
        raise ValueError(f"the code of {unread[0]} was not loaded")
    options = {"device": device, "checkpoint_seconds": checkpoint_seconds}
    told = {} if executor is None else {run.name: _message(run, out, threads, options) for run in study.runs}
    write_plan(out, plan_of(study.name, [run.expected for run in study.runs]))
    if retry:
        for run in study.runs:
            clear_failure(out / run.name)

    def here(planned: Planned) -> Job | None:
        _permit_code(planned)
        return _Ended(do(planned, out, device, checkpoint_seconds))

    if executor is None and threads is not None:
        torch.set_num_threads(threads)
    with ExitStack() as stack:
        if executor is None:  # a signal reaches the training itself, which saves and stops
            requests, start, jobs = Requests(), here, 1.0
        else:
            requests, jobs = stack.enter_context(deferred_signals()), math.inf
            wanted = stack.enter_context(scratch_folder(out / f"{study.name}-{socket.gethostname()}"))

            def start(planned: Planned) -> Job | None:
                return _submit(executor, out / planned.name, told[planned.name], wanted)

        states = Supervisor(study.runs, out, start, jobs, on_status or _ignore)(requests)
    if left := [name for name, state in states.items() if not state.ended]:
        warnings.warn(
            f"the executor takes no more work: {len(left)} of {len(states)} runs are not done, such as {left[0]}: call "
            "run_study again with another executor",
            stacklevel=2,
        )
    return states


def _ignore(status: StudyStatus) -> None:
    pass


def _permit_code(planned: Planned) -> None:
    """Let the data set and the model that the caller has named as code be loaded by that name from the run's folder."""
    for name in (planned.experiment.data, planned.experiment.model):
        if is_user_code(name):
            permit(name)


@dataclass(frozen=True)
class _Ended:
    """A :class:`.execute.Job` that was done when it was started."""

    status: int

    def poll(self) -> int:
        return self.status

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Task:
    """A :class:`.execute.Job`: a future of an executor.

    Args:
        wanted: see :func:`.process.do_in_process`.
    """

    def __init__(self, future: Any, wanted: Path):
        self._future, self._wanted = future, wanted

    def poll(self) -> int | str | None:
        if not self._future.done():
            return None
        try:
            error = self._future.exception()
        except CancelledError:
            return "it was cancelled"
        if error is None:
            status: int = self._future.result()
            return status
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

    def stop(self) -> None:
        with suppress(OSError):  # of another task
            self._wanted.rmdir()
        self._future.cancel()

    def close(self) -> None:
        pass


def _submit(executor: Any, folder: Path, message: bytes, wanted: Path) -> _Task | None:
    """The task of one run; None if the executor takes none any more: it is broken, or was shut down."""
    try:
        # the last argument, because dask takes equal calls for one
        future = executor.submit(do_in_process, message, str(folder), str(wanted), uuid.uuid4().hex)
    except RuntimeError:
        return None
    return _Task(future, wanted)


class _Pickler(pickle.Pickler):
    """Notes in which modules the classes and functions are defined that it refers to."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.named: dict[str, str] = {}  # name of one of them by module

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | FunctionType):
            self.named.setdefault(value.__module__, value.__qualname__)
        return NotImplemented


def _message(planned: Planned, out: Path, threads: int | None, options: dict[str, Any]) -> bytes:
    """The message for the process of one run: its length, and a pickle of plain values.

    Raises:
        ValueError: something of it cannot be imported there.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(planned)
    except Exception as error:  # whatever a user's object does
        raise ValueError(
            f"the run {planned.name} cannot be sent to another process: {error}: define what is yours at the top level "
            "of a file, and keep plain values in it"
        ) from error
    if name := pickler.named.get("__main__"):
        raise ValueError(
            f"the run {planned.name} needs {name}, which is defined in the script itself: other processes cannot "
            "import it from there; move it to a file of its own and import that"
        )
    message = {
        "name": planned.name, "planned": file.getvalue(), "files": dict(_files(pickler.named)), "path": sys.path,
        "working_folder": str(Path.cwd()), "out": str(out), "threads": threads, "options": options,
    }  # fmt: skip
    content = pickle.dumps(message)
    return len(content).to_bytes(8, "little") + content


def _files(modules: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Files of those modules that are not installed, as ``file.py:Name``, by module; packages are found by the path."""
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    for module, name in modules.items():
        file = getattr(sys.modules.get(module), "__file__", None)
        if not file or module.partition(".")[0] == "easybn" or Path(file).stem != module:
            continue
        if not any(Path(file).is_relative_to(folder) for folder in installed):
            yield module, f"{Path(file).absolute()}:{name.partition('.')[0]}"


def main() -> None:
    """Do the run that the standard input tells, as the process that :func:`do_in_process` starts.

    Raises:
        SystemExit: with the status of :func:`.execute.do`.
    """
    message = pickle.loads(_read(int.from_bytes(_read(8), "little")))
    stop_with_the_parent()
    out, name = Path(message["out"]), message["name"]
    with suppress(OSError):  # another machine may lack it
        os.chdir(message["working_folder"])
    sys.path += [entry for entry in message["path"] if entry not in sys.path]
    if message["threads"] is not None:
        torch.set_num_threads(message["threads"])
    try:
        for code in message["files"].values():
            import_code(code, name)
        planned: Planned = pickle.loads(message["planned"])
    except Exception as error:
        _fail(out / name, f"its code cannot be loaded on {socket.gethostname()}: {error}")
    _permit_code(planned)
    try:
        status = do(planned, out, **message["options"])
    except (Interrupted, KeyboardInterrupt) as stop:
        say(str(stop) or "stopped; what was saved is continued")
        status = STOPPED
    raise SystemExit(status)


def _fail(folder: Path, error: str) -> NoReturn:
    record_failure(folder, error)
    say(f"failed: {error}")
    raise SystemExit(1)


def _read(count: int) -> bytes:
    """So many bytes of the standard input, and nothing beyond."""
    content = b""
    while len(content) < count:
        part = os.read(0, count - len(content))
        if not part:
            raise SystemExit("python -m easybn.study is started by run_study, which tells it what to do")
        content += part
    return content
