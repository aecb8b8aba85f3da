"""Does the runs of a study, or the shards of an evaluation, in Slurm jobs (:mod:`.slurm`), and looks after them.

Started again while jobs wait or run, the same command submits nothing twice and goes on looking. A job that has ended
and left its work undone is a failure that names its log; one that Slurm requeues has not ended.
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..escapes import say
from ..files import explained
from ..interrupt import Interrupted, deferred_signals
from ..locks import Held, held
from .execute import BUSY
from .plan import Planned, state
from .slurm import FOLDER, Job, Queue, SlurmOptions, Task, squeue
from .state import LOG, State, StudyStatus, is_busy, record_failure
from .status import OnStatus

SHORTEST, LONGEST = 1.0, 10.0  # seconds between two looks at the queue
GONE_SECONDS = 4.0  # a job that the queue has lacked for so long has ended, and what it left is seen on any file system
BUSY_SECONDS = 60.0  # from a job that found another process at work, perhaps unseen from here, to the next one


class Follower:
    """Submits tasks and looks after their jobs; a subclass says what it means that one is done.

    Args:
        tasks: in the order in which they are submitted.
        options: of their jobs.
    """

    def __init__(self, tasks: Sequence[Task], options: SlurmOptions):
        self.tasks: dict[str, Task] = {task.name: task for task in tasks}
        self.options = options
        self.seen: set[str] = set()  # in the queue since this command was started

    def ended(self, name: str) -> bool:
        """Whether nothing is left to be done of a task, or it has failed."""
        raise NotImplementedError

    def lost(self, name: str, how: str) -> None:
        """Note that a task's job has ended and left it unfinished, and how; it has failed then."""
        raise NotImplementedError

    def busy(self, name: str) -> bool:
        """Whether a process outside of the queue works on it, so that it waits."""
        return False

    def show(self, jobs: Mapping[str, Job]) -> None:
        """Show how it stands, after every look at the queue."""

    def __call__(self, wait: bool = True) -> None:
        """Submit what is neither done nor in the queue, and wait until all has ended.

        Raises:
            ValueError: sbatch refuses the jobs.
            Interrupted: Ctrl-C or SIGTERM; the jobs go on.
        """
        jobs, pause, silent, missing = self._submit([*self.tasks]), SHORTEST, False, dict.fromkeys(self.tasks, 0.0)
        with deferred_signals() as requests:
            while wait and requests.signum is None:
                looked = self._look()
                if looked is None and not silent:
                    say("note: squeue gives no answer; the jobs go on, and it is asked again", error=True)
                silent, jobs, now = looked is None, jobs if looked is None else looked, time.monotonic()
                left = [name for name in self.tasks if name in jobs or not self.ended(name)]
                again = []
                for name in left:
                    if silent or name in jobs or self.busy(name):
                        missing[name] = 0.0
                    elif not missing[name]:
                        missing[name] = now
                    elif now - missing[name] > self._patience(name) and not self.ended(name):
                        again += self._gone(name)
                        missing[name] = 0.0
                self.show(jobs)
                if not left:
                    return
                if again:
                    self._submit(again)
                deadline, pause = time.monotonic() + pause, min(LONGEST, 1.2 * pause)
                while requests.signum is None and time.monotonic() < deadline:
                    time.sleep(0.1)
        if requests.signum is not None:
            told = f": scancel {_numbers(jobs.values())} ends them" if jobs else ""
            raise Interrupted(requests.signum, f"the jobs go on{told}; the same command shows them again")

    def _look(self) -> dict[str, Job] | None:
        """The jobs of the tasks by name; None if the queue gives no answer."""
        lines = squeue()
        if lines is None:
            return None
        queues = {task.queue: task.queue.jobs(lines) for task in self.tasks.values()}
        jobs = {name: queues[task.queue].get(task.key) for name, task in self.tasks.items()}
        self.seen |= {name for name, job in jobs.items() if job}
        return {name: job for name, job in jobs.items() if job}

    def _submit(self, names: Sequence[str]) -> dict[str, Job]:
        """Submit those of the tasks that are to be submitted; returns what was in the queue before."""
        with ExitStack() as stack:  # two commands at the same moment submit nothing twice
            queues = dict.fromkeys(self.tasks[name].queue for name in names)
            for queue in queues:
                stack.enter_context(_alone(queue.folder))
            jobs = self._look()
            if jobs is None:
                raise OSError(
                    "squeue gives no answer, so it is not known what is in the queue already: try again later"
                )
            if known := [jobs[name] for name in names if name in jobs]:
                say(f"{len(known)} of {len(self.tasks)} are in the queue already (job {_numbers(known)})")
            chosen = [name for name in names if name not in jobs and not self.ended(name) and not self.busy(name)]
            for queue in queues:
                if tasks := [task for task in map(self.tasks.__getitem__, chosen) if task.queue is queue]:
                    numbers = " ".join(queue.submit(tasks, self.options))
                    say(f"submitted {len(tasks)} of {len(self.tasks)} as job {numbers} (to end it: scancel {numbers})")
            self.seen |= {*chosen}
        return jobs

    def _patience(self, name: str) -> float:
        """Seconds without a job after which it counts as gone."""
        status = self.tasks[name].queue.status(self.tasks[name].key)
        return BUSY_SECONDS if status == BUSY else GONE_SECONDS

    def _gone(self, name: str) -> list[str]:
        """What to submit again after a job has ended and left its task unfinished."""
        status = self.tasks[name].queue.status(self.tasks[name].key)
        if name not in self.seen or status == BUSY:  # another process was at work, and has ended by now
            return [name]
        how = "its Slurm job ended without a word (cancelled, or killed?)"
        if status is not None:
            how = f"its Slurm job ended with status {status}"
        if status is not None and status < 0:
            how = f"killed by signal {-status} ({signal.strsignal(-status)}) in its Slurm job"
        self.lost(name, how)
        return []


def _numbers(jobs: Iterable[Job]) -> str:
    """What scancel takes for all of them."""
    return " ".join(sorted({job.number.partition("_")[0] for job in jobs}))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with held(folder / ".lock", folder, timeout=300):
            yield
    except Held as error:
        raise OSError(f"another command is submitting the jobs of {folder.parent} ({error})") from error


# What is done in jobs: the runs of a study, the shards of an evaluation.


def study_on_slurm(
    runs: Sequence[Planned],
    out: Path,
    command: Callable[[Planned], list[str]],
    options: SlurmOptions,
    on_status: OnStatus,
    wait: bool = True,
) -> dict[str, State]:
    """Do every run that has not failed in a job of its own, see :func:`easybn.study.execute.parallel`.

    Args:
        out, command: see there.
        on_status: called after every look at the queue.
        wait: whether to wait until all have ended.

    Returns:
        The state of every run at the end.

    Raises:
        ValueError: sbatch refuses the jobs.
        Interrupted: Ctrl-C or SIGTERM; the jobs go on.
    """
    planned = {run.name: run for run in runs}

    class Runs(Follower):
        def ended(self, name: str) -> bool:
            if not status.states[name].ended:
                status.states[name] = state(planned[name], out / name)
            return status.states[name].ended

        def lost(self, name: str, how: str) -> None:
            (out / name).mkdir(parents=True, exist_ok=True)
            record_failure(out / name, f"{how}: {queue.last_words(self.tasks[name])}")

        def busy(self, name: str) -> bool:
            return is_busy(out / name)

        def show(self, jobs: Mapping[str, Job]) -> None:
            status.here = {name for name, job in jobs.items() if job.running}
            for name in status.here:
                status.states[name] = state(planned[name], out / name)
            others = [name for name in planned if name not in jobs and not self.ended(name)]
            status.elsewhere = {name for name in others if is_busy(out / name)}
            on_status(status)

    status = StudyStatus({name: state(run, out / name) for name, run in planned.items()})
    queue = Queue(out / FOLDER, out.name)
    tasks = [Task(name, name, command(run), queue, out / name / LOG) for name, run in planned.items()]
    Runs(tasks, options)(wait)
    return status.states


def evaluate_on_slurm(tasks: Sequence[Task], options: SlurmOptions, wait: bool = True) -> dict[str, str]:
    """Run commands of ``easybn evaluate`` in jobs, and print when each begins and ends.

    Args:
        wait: whether to wait until all have ended.

    Returns:
        By name, how a command ended that has failed.

    Raises:
        ValueError: sbatch refuses the jobs.
        Interrupted: Ctrl-C or SIGTERM; the jobs go on.
    """
    failed: dict[str, str] = {}
    shown: dict[str, str] = {}

    class Shards(Follower):
        def ended(self, name: str) -> bool:
            task = self.tasks[name]
            return name in failed or (name in self.seen and task.queue.status(task.key) == 0)

        def lost(self, name: str, how: str) -> None:
            failed[name] = f"{how}: {self.tasks[name].queue.last_words(self.tasks[name])}"

        def show(self, jobs: Mapping[str, Job]) -> None:
            for name in self.tasks:
                job = jobs.get(name)
                if job is not None:
                    text = f"running on {job.node}" if job.running else "waits in the queue"
                    text += f" (job {job.number})"
                else:
                    text = "failed" if name in failed else "done" if self.ended(name) else shown.get(name, "")
                if text != shown.get(name):
                    say(f"{time.strftime('%H:%M:%S')} {name}: {text}")
                    shown[name] = text

    Shards(tasks, options)(wait)
    return failed
