"""What every process of an evaluation runs: take a chunk that no other process has, do its stages, until all are done.

A process holds a file lock (``locks/00003.lock``) on the chunk that it works on. The operating system frees the lock
when the process ends, however it ends, so that the chunk of a killed process is taken over at once; a restarted Slurm
job takes over those of its earlier instance (:mod:`easybn.locks`). Locks are for the processes of one machine: several
machines that share a folder are given a shard each.

Locks save work, they do not protect it: a result is the same whoever computes it, and is written by a rename, so that
two processes on one chunk (on a file system that does not keep locks) do no harm.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...attacks.runner import STATE_VERSION
from ...files import Removed, check_guards, explained
from ...interrupt import Interrupted, Requests, deferred_signals
from ...json_files import Damaged
from ...locks import Held, held
from ...progress import OnProgress, silent
from ..record import Record, Stage
from .stage_file import Images, State
from .store import Store


class DeadlinePassed(Exception):
    """The deadline has passed, or the process was asked to stop, and the state is saved."""


@dataclass(frozen=True)
class StageResult:
    """What a stage did.

    Args:
        record: at least one row for each point of the task, in any order.
        images: of every point with a finite distance, the nearest adversarial image found; if images are kept.
    """

    record: Record
    images: Images | None = None


@dataclass
class Task:
    """One stage of one chunk, as it is handed to whoever runs the attack.

    A run that takes long calls :meth:`save` every minute; or :meth:`due` every now and then, and :meth:`save` when it
    returns True. Exceptions of either are to be let through: they end the run for good reason.

    Args:
        store: which it is part of; its manifest says norm, seed and batch size.
        chunk: number of the chunk.
        number: number of the stage.
        points: int64 (n,), n at least 1, ids of the points to attack.
        deadline: moment of ``time.monotonic`` after which to stop at the next save.
        save_seconds: between two states.
        requests: to stop at the next save, by a signal.
    """

    store: Store
    chunk: int
    number: int
    points: NDArray[np.int64]
    deadline: float | None = None
    save_seconds: float = 60.0
    requests: Requests = field(default_factory=Requests)
    _saved: float = field(default_factory=time.monotonic)
    _began: float = field(default_factory=time.monotonic)
    _earlier: float = 0.0  # seconds of earlier sessions

    @property
    def stage(self) -> Stage:
        """The attack and its radius."""
        return self.store.manifest.stages[self.number]

    def resume(self) -> State | None:
        """The last state that was saved of this very task, its tensors on the CPU; None to begin."""
        file = self.store.file(self.chunk, self.number)
        try:
            saved = file.load_state(self.points)
            if saved is None:
                return None
            if set(saved) != {"version", "seconds", "state"} or saved["version"] != STATE_VERSION:
                raise Damaged("it is of another version of easybn")
            self._earlier = float(saved["seconds"])
            state: State = saved["state"]
            return state
        except Damaged as error:
            self.store.report(f"{file.path('partial')}: {error}; {self.stage} of chunk {self.chunk} begins anew")
            return None

    @property
    def seconds(self) -> float:
        """Spent on it so far, here and before the state that was resumed."""
        return self._earlier + time.monotonic() - self._began

    def due(self) -> bool:
        """Whether the state should be saved now."""
        return self.late or time.monotonic() - self._saved >= self.save_seconds

    def save(self, state: State) -> None:
        """Save a state to resume from.

        Args:
            state: tensors and plain values, also nested in dicts, lists and tuples.

        Raises:
            DeadlinePassed: the state is saved, and there is no time to go on.
            OSError: it could not be written; the state before is still there.
        """
        saved = {"version": STATE_VERSION, "seconds": self.seconds, "state": state}
        self.store.file(self.chunk, self.number).save_state(saved, self.points)
        self._saved = time.monotonic()
        if self.late:
            raise DeadlinePassed

    @property
    def late(self) -> bool:
        """The deadline has passed, or the process was asked to stop."""
        return self.requests.signum is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


RunStage = Callable[[Task], StageResult]


def work(
    store: Store,
    run_stage: RunStage,
    *,
    shard: tuple[int, int] | None = None,
    deadline: float | None = None,
    most: int | None = None,
    progress: OnProgress = silent,
    save_seconds: float = 60.0,
    poll: float = 1.0,
) -> bool:
    """Work on an evaluation until all of it is there, side by side with other processes that do the same.

    However it ends (a kill, an interrupt, a full disk), calling it again resumes from the last state that was
    saved, and ends with the very rows of an undisturbed run, provided ``run_stage`` is a function of its task.

    Args:
        store: where the results go.
        run_stage: does the work of one task.
        shard: (i, n), to take the chunks whose number is i modulo n only.
        deadline: moment of ``time.monotonic`` at which to stop: between stages at once, within one as soon as it
            saves its state.
        most: take only the first so many chunks; all by default.
        progress: called after every stage, with the stages done of all chunks of the shard.
        save_seconds: between two states of a stage.
        poll: seconds between two attempts to take what other processes still work on.

    Returns:
        Whether every chunk of the shard (of the first ``most``) is done; False only at the deadline.

    Raises:
        ValueError: a shard that does not exist; or ``run_stage`` did not do all of its task.
        OSError: something could not be written, as on a full disk.
        Interrupted: Ctrl-C or SIGTERM; the state is saved. A second one acts at once.
    """
    part, parts = shard or (0, 1)
    if not 0 <= part < parts:
        raise ValueError(f"a shard is i of n with 0 <= i < n, got {part} of {parts}")
    requests = Requests()
    remaining = list(range(store.manifest.chunks))[:most][part::parts]
    stages = len(store.manifest.stages)
    total = len(remaining) * stages
    try:
        with store.at_work(), deferred_signals() as requests:
            worker = _Worker(store, run_stage, deadline, save_seconds, requests)
            while remaining:
                before = len(remaining)
                for chunk in [*remaining]:
                    worker.check_time()
                    done = total - len(remaining) * stages
                    if store.chunk_record(chunk) is not None:
                        progress(done + stages, total, f"chunk {chunk}")
                    else:
                        with chunk_lock(store, chunk) as free:
                            if not free:
                                continue
                            for number, stage in enumerate(worker.stages_of(chunk), 1):
                                progress(done + number, total, f"chunk {chunk}, {stage}")
                    remaining.remove(chunk)
                if len(remaining) == before:
                    done = total - before * stages
                    progress(done, total, f"waiting for another process (chunk {remaining[0] + 1})")
                    time.sleep(poll if deadline is None else max(0.0, min(poll, deadline - time.monotonic())))
    except DeadlinePassed:
        if requests.signum is not None:
            told = "stopped; what is done so far is saved: run the same command to continue"
            raise Interrupted(requests.signum, told) from None
        return False
    return True


@contextmanager
def chunk_lock(store: Store, chunk: int) -> Iterator[bool]:
    """Whether this process has the chunk for as long as the block lasts; False if another one works on it.

    Raises:
        OSError: the lock cannot be made.
    """
    path = store.folder / "locks" / f"{chunk:05d}.lock"
    check_guards(path)  # nothing is made in a folder that was removed
    with ExitStack() as stack:
        try:
            with explained(path):
                path.parent.mkdir(exist_ok=True)
            stack.enter_context(held(path, store.folder))
        except Held:
            yield False
            return
        except FileNotFoundError as error:
            raise Removed(f"{store.folder} was removed meanwhile: run the same command again") from error
        yield True


@dataclass(frozen=True)
class _Worker:
    store: Store
    run_stage: RunStage
    deadline: float | None
    save_seconds: float
    requests: Requests = field(default_factory=Requests)

    def stages_of(self, chunk: int) -> Iterator[Stage]:
        """Do the stages of a chunk in order, and yield each; those that are stored are read and checked only."""
        store, record = self.store, Record.joined([])
        for number, stage in enumerate(store.manifest.stages):
            points = store.manifest.to_attack(record, stage, store.manifest.points_of(chunk))
            found = store.stage_record(chunk, number, points)
            if found is None:
                self.check_time()
                found = self._run(Task(store, chunk, number, points, self.deadline, self.save_seconds, self.requests))
            store.file(chunk, number).drop_state()  # a kill may have left it
            record = Record.joined([record, found])
            yield stage

    def _run(self, task: Task) -> Record:
        # a stage without points is stored too, so that a chunk is done when all its files are there
        result = self.run_stage(task) if len(task.points) else StageResult(Record.joined([]))
        self.store.write(task.chunk, task.number, task.points, result.record, result.images, task.seconds)
        return result.record

    def check_time(self) -> None:
        if self.requests.signum is not None or (self.deadline is not None and time.monotonic() >= self.deadline):
            raise DeadlinePassed
