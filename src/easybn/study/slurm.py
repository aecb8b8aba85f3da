"""Runs of a study and shards of an evaluation as elements of Slurm job arrays, through submitit.

An element of an array (:class:`Command`) starts the command line that a process of this machine would be started with,
and nothing comes back from it but files: what is done is read from the folders of runs and stores, as always, and a
small JSON file beside says how the command ended. So a job that Slurm requeues, because its node was lost or it was
preempted, just continues (:mod:`easybn.locks` keeps its earlier instance from writing, should that still be alive).

submitit hands the command over as a pickle. It is made here, of our own words, in a folder that is new and that nobody
else may enter, and unpickled in the job; nothing else is unpickled, least of all what lies in a folder of runs. Which
jobs wait or run is asked of squeue, since many a Slurm keeps no accounts.
"""

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import check_regular, explained, read_text
from ..interrupt import CHILD
from ..json_files import read_json, write_json
from ..locks import SlurmJob

FOLDER = ".slurm"  # in the folder of a study, or of the run that is evaluated
ARRAYS = "arrays.json"
ELEMENTS = 1000  # of an array: Slurm's MaxArraySize is 1001 unless somebody has changed it
TIMEOUTS = 1000  # how often a job that has reached its time limit goes on in another one
SAVE_SECONDS = 75.0  # until a command has saved; submitit asks for the signal 90 s before the job is killed
STOPPED_SECONDS = 150.0  # what Slurm has stopped waits so long for it to say whether the job is requeued


# What runs in a job.


class Command:
    """What submitit pickles and calls in the job: it runs one command line, and notes how that ended.

    Args:
        words: the command line.
        log: file to which its output is appended.
        report: path, without its ending, of the file that says how it ended.
    """

    def __init__(self, words: Sequence[str], log: Path, report: Path):
        self.words: list[str] = list(words)
        self.log: str = str(log)
        self.report: str = str(report)
        self._child: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None}

    def __call__(self) -> int:
        """Run the command; returns its exit status, negative if a signal has killed it."""
        child = self._child = self._start()
        try:
            while child.poll() is None:  # not wait(), in which the handler of a signal could not wait for it too
                time.sleep(0.1)
            if child.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT):
                # Slurm has stopped every process of the job, and will say by the next signal what becomes of it
                time.sleep(STOPPED_SECONDS)
        finally:
            if child.poll() is None:
                child.kill()
            with child:  # closes the pipe, and waits
                pass
        job = SlurmJob.current() or SlurmJob("?", 0)
        how = {"job": job.name, "restart": job.restart, "status": child.returncode}
        write_json(Path(f"{self.report}-{job.restart}.json"), how, indent=None)
        return child.returncode

    def checkpoint(self) -> Any:
        """Called by submitit on its signal, before the job is preempted or reaches its time limit.

        Returns:
            This very command: it is requeued, and continues from what was saved.
        """
        from submitit.helpers import DelayedSubmission

        child, deadline = self._child, time.monotonic() + SAVE_SECONDS
        asked = False
        while child is not None and _runs(child.pid) and time.monotonic() < deadline:
            if not asked:
                os.kill(child.pid, signal.SIGTERM)
                asked = True
            time.sleep(0.1)
        if child is not None and _runs(child.pid):
            os.kill(child.pid, signal.SIGKILL)
        return DelayedSubmission(self)

    def _start(self) -> "subprocess.Popen[bytes]":
        log = Path(self.log)
        with explained(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            if log.is_symlink():  # of a folder made by somebody else: another file would be appended to
                raise ValueError(f"{log} is a link: remove it")
            if log.exists():
                check_regular(log)
            handle = log.open("ab")
        with handle:
            job = SlurmJob.current()
            now = datetime.now(UTC).isoformat(timespec="seconds")
            handle.write(f"--- {now} {' '.join(self.words[1:])} ({job} on {os.uname().nodename})\n".encode())
            handle.flush()
            environment = {**os.environ, CHILD: "1"}
            environment.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
            # Slurm sends the signal to every process of the job; the command is not to die of it. In a session of its
            # own it ends when its standard input does, should this process be killed alone.
            preempting = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {preempting})
            try:
                return subprocess.Popen(
                    self.words, stdin=subprocess.PIPE, stdout=handle, stderr=subprocess.STDOUT, env=environment,
                    start_new_session=True,
                )  # fmt: skip
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _runs(process: int) -> bool:
    """Whether a child has not ended; its status is left to whoever waits for it."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


# What submits them.


@dataclass(frozen=True)
class SlurmOptions:
    """What a job asks for; None where the cluster's default is taken.

    Args:
        partition, account, constraint: see sbatch.
        time: minutes; a job that reaches them saves, is requeued and goes on.
        cpus: processors of each element; also its number of threads, unless OMP_NUM_THREADS is set.
        gpus: of each element.
        memory: GB of each element.
        at_once: elements that run at the same time, at most.
        extra: any other option of sbatch, "qos=long" or "exclusive".
    """

    partition: str | None = None
    time: int = 60
    cpus: int = 1
    gpus: int | None = None
    memory: float | None = None
    account: str | None = None
    constraint: str | None = None
    at_once: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("time", "cpus", "gpus", "memory", "at_once"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--slurm.{name} must be positive, got {value:g}")
        if wrong := [word for word in self.extra if not re.fullmatch(r"[a-zA-Z][\w-]*(=[^\n]*)?", word)]:
            raise ValueError(f"--slurm.extra {wrong[0]}: give options of sbatch without dashes, such as qos=long")

    def parameters(self, name: str) -> dict[str, Any]:
        """For submitit's SlurmExecutor.

        Args:
            name: of the jobs.
        """
        extra: dict[str, Any] = {"requeue": True}
        for word in self.extra:
            key, equals, value = word.partition("=")
            extra[key] = value if equals else True
        asked = {
            "job_name": name, "partition": self.partition, "time": self.time, "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus, "account": self.account, "constraint": self.constraint,
            "mem": None if self.memory is None else f"{round(1024 * self.memory)}M",
            "array_parallelism": self.at_once,
        }  # fmt: skip
        # srun does not take over the processors that sbatch was asked for; the wckey is not submitit's to set
        fixed = {"srun_args": [f"--cpus-per-task={self.cpus}"], "stderr_to_stdout": True, "wckey": None}
        return {key: value for key, value in asked.items() if value is not None} | fixed | {
            "additional_parameters": extra
        }  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What is to be done in one element of an array.

    Args:
        name: which it is, in messages.
        key: which it is in its queue, also when the same command is started again.
        words: the command line that does it.
        queue: where it is submitted.
        log: file for its output; None for one beside the array.
    """

    name: str
    key: str
    words: Sequence[str]
    queue: "Queue"
    log: Path | None = None


@dataclass(frozen=True)
class Job:
    """An element that waits or runs.

    Args:
        number: 12_3, or 12 if it is alone.
        state: PENDING, RUNNING, COMPLETING and so on.
        node: where it runs; "" if it does not.
    """

    number: str
    state: str
    node: str

    @property
    def running(self) -> bool:
        return self.state != "PENDING"


def check_available() -> None:
    """Raise ValueError unless jobs can be submitted from here."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise ValueError("--executor slurm needs submitit: pip install 'easybn[slurm]'") from None
    if missing := [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]:
        raise ValueError(
            f"--executor slurm: there is no {missing[0]} on this machine: start the command where jobs of the cluster "
            "are submitted, or take --executor local"
        )


class Queue:
    """The arrays that were submitted for one folder; known again by whoever starts the same command later.

    ``arrays.json`` has the name of each array, which no other one has, and what its elements are. It is written before
    the array is submitted, so that a command killed in between submits nothing twice: the queue shows the name.

    Args:
        folder: for arrays.json, and a folder per array with pickles, reports and logs.
        label: part of the names of the jobs.
    """

    def __init__(self, folder: Path, label: str):
        self.folder: Path = folder
        self.label: str = label

    def jobs(self, lines: Sequence[str]) -> dict[str, Job]:
        """The elements that wait or run, by the key of their task.

        Args:
            lines: of :func:`squeue`.
        """
        arrays, found = dict(self._arrays()), {}
        for line in lines:
            number, element, state, node, name = (*line.split("|", 4), "", "", "", "", "")[:5]
            index = int(element) if element.isdigit() else 0
            if index < len(keys := arrays.get(name, [])):
                found[keys[index]] = Job(number, state, node)
        return found

    def submit(self, tasks: Sequence[Task], options: SlurmOptions) -> list[str]:
        """Submit the tasks; returns the numbers of their arrays.

        Raises:
            ValueError: sbatch refuses them; the message says why.
        """
        numbers = []
        for first in range(0, len(tasks), ELEMENTS):
            some = tasks[first : first + ELEMENTS]
            name = f"easybn-{re.sub(r'[^a-zA-Z0-9_.-]', '-', self.label)[:40]}-{uuid.uuid4().hex[:8]}"
            place = (self.folder / name).absolute()
            with explained(place):
                self.folder.mkdir(parents=True, exist_ok=True)
                place.mkdir(mode=0o700)
            earlier = [(old, keys) for old, keys in self._arrays() if (self.folder / old).is_dir()]
            arrays = [*earlier, (name, [task.key for task in some])]
            write_json(self.folder / ARRAYS, {"arrays": [{"name": array, "tasks": keys} for array, keys in arrays]})
            numbers.append(_sbatch(place, [self._command(place, i, task) for i, task in enumerate(some)], options))
        return numbers

    def status(self, key: str) -> int | None:
        """How the task's command ended when it was last submitted; None if no process has noted it."""
        reports: dict[int, int] = {}
        place, index = self._place(key)
        for path in place.glob(f"{index}-*.json") if place else ():
            with suppress(ValueError, KeyError, OSError, TypeError):
                report = read_json(path)
                reports[int(report["restart"])] = int(report["status"])
        return reports[max(reports)] if reports else None

    def last_words(self, task: Task) -> str:
        """The last line of what a task's command has said, or of its job if it said nothing, and where more is."""
        place, index = self._place(task.key)
        own = [task.log] if task.log else []
        of_job = [] if place is None else [*place.glob(f"*_{index}_0_log.out"), *place.glob("[0-9]*_0_log.out")]
        for log in [*own, *([] if place is None else [place / f"{index}.log"]), *of_job]:
            with suppress(OSError, ValueError):
                lines = [line.strip() for line in read_text(log).splitlines() if line.strip()]
                if lines and not (log in own and lines[-1].startswith("--- ")):  # it was started, and that is all
                    return f"{lines[-1]} (log: {log})"
        return f"no output (see {place or self.folder})"

    def _command(self, place: Path, index: int, task: Task) -> Command:
        log = place / f"{index}.log" if task.log is None else task.log
        return Command(task.words, log.absolute(), place / str(index))

    def _place(self, key: str) -> tuple[Path | None, int]:
        """The folder of the last array with this task, and its number there."""
        for array, keys in reversed(self._arrays()):
            if key in keys:
                return self.folder / array, keys.index(key)
        return None, 0

    def _arrays(self) -> list[tuple[str, list[str]]]:
        try:
            entries = read_json(self.folder / ARRAYS, {"arrays": []})["arrays"]
            return [(Path(str(entry["name"])).name, [str(name) for name in entry["tasks"]]) for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            path = self.folder / ARRAYS
            advice = "see with squeue that no job of it is left, and delete it"
            raise ValueError(f"{path} is damaged ({error}): {advice}") from error


def _sbatch(place: Path, commands: Sequence[Command], options: SlurmOptions) -> str:
    """Submit one array, or a single job; returns its number."""
    import submitit

    # without -P, a job in whose working folder there is a random.py would import that
    python = f"{shlex.quote(sys.executable)} -P"
    try:
        executor = submitit.SlurmExecutor(folder=place, max_num_timeout=TIMEOUTS, python=python)
        executor.update_parameters(**options.parameters(place.name))
        with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises
            jobs = [executor.submit(command) for command in commands]
        return str(jobs[0].job_id).partition("_")[0]
    except Exception as error:  # of many kinds, with sbatch's lines somewhere in it
        shutil.rmtree(place, ignore_errors=True)
        lines = [line for line in str(error).splitlines() if "error:" in line] or [str(error)]
        raise ValueError(f"sbatch refuses the job: {lines[-1].rpartition('error:')[2].strip()}") from error


def squeue() -> list[str] | None:
    """A line for each element of a job of this user that waits or runs; None if no answer came."""
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%K|%T|%N|%j"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
