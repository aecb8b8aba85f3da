"""What every process of an evaluation runs: take a chunk that nobody has, do its stages, until all are done."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...attacks.prepare import Progress, silent
from ...json_files import Damaged
from ..record import Record, Stage
from ..verdicts import to_attack
from .claim import Claim, Claims, Lost
from .stage_file import Images, State
from .store import Store

# One stage of one chunk, as it is handed to whoever runs the attack, and what comes back.


class Late(Exception):
    """The deadline has passed, and the state is saved."""


@dataclass(frozen=True)
class Found:
    """What a stage found.

    Args:
        record: at least one row for each point of the task, in any order.
        images: of every point with a finite distance, the nearest adversarial image found; if images are kept.
    """

    record: Record
    images: Images | None = None


@dataclass
class Task:
    """One stage of one chunk.

    A run that takes long calls :meth:`save` every minute; or :meth:`due` every now and then, and
    :meth:`save` when it says so. Exceptions of either are to be let through: they end the run for good reason.

    Args:
        store: which it is part of; its manifest says norm, seed and batch size.
        claim: under which it is done.
        chunk: number of the chunk.
        number: number of the stage.
        points: int64 (n,), n at least 1, ids of the points to attack.
        deadline: moment of ``time.monotonic`` after which to stop at the next save.
        save_seconds: between two states.
    """

    store: Store
    claim: Claim
    chunk: int
    number: int
    points: NDArray[np.int64]
    deadline: float | None = None
    save_seconds: float = 60.0
    _saved: float = field(default_factory=time.monotonic)
    _began: float = field(default_factory=time.monotonic)
    _before: float = 0.0  # seconds of earlier sittings

    @property
    def stage(self) -> Stage:
        """The attack and its radius."""
        return self.store.manifest.stages[self.number]

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64 (n,), the positions of ``points`` in the manifest's list of points."""
        chunk = np.isin(self.store.manifest.points_of(self.chunk), self.points)
        return self.store.manifest.rows(self.chunk).start + np.flatnonzero(chunk)

    def resume(self) -> State | None:
        """The last state that was saved of this very task, its tensors on the CPU; None to begin."""
        file = self.store.file(self.chunk, self.number)
        try:
            kept = file.load_state(self.points)
            if kept is None:
                return None
            if set(kept) != {"seconds", "state"}:
                raise Damaged("it is of another version of easybn")
            self._before = float(kept["seconds"])
            state: State = kept["state"]
            return state
        except Damaged as error:
            self.store.report(f"{file.path('partial')}: {error}; {self.stage} of chunk {self.chunk} begins anew")
            return None

    @property
    def seconds(self) -> float:
        """Spent on it so far, here and before the state that was resumed."""
        return self._before + time.monotonic() - self._began

    def beat(self) -> None:
        """Give a sign of life; costs next to nothing. Raises Lost if another process has taken the chunk over."""
        self.claim.beat()

    def due(self) -> bool:
        """Give a sign of life, and tell whether the state should be saved now. Raises as :meth:`beat`."""
        self.beat()
        return self.late or time.monotonic() - self._saved >= self.save_seconds

    def save(self, state: State) -> None:
        """Keep a state to go on from.

        Args:
            state: tensors and plain values, also nested in dicts, lists and tuples.

        Raises:
            Lost: another process has taken the chunk over.
            Late: the deadline has passed.
            OSError: it could not be written; the state before is still there.
        """
        self.beat()
        self.store.file(self.chunk, self.number).save_state({"seconds": self.seconds, "state": state}, self.points)
        self._saved = time.monotonic()
        if self.late:
            raise Late

    @property
    def late(self) -> bool:
        """The deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


RunStage = Callable[[Task], Found]


def work(
    store: Store,
    run_stage: RunStage,
    *,
    shard: tuple[int, int] | None = None,
    deadline: float | None = None,
    most: int | None = None,
    progress: Progress = silent,
    save_seconds: float = 60.0,
    poll: float = 1.0,
    patience: float = 120.0,
) -> bool:
    """Work on an evaluation until all of it is there, side by side with any other process that does the same.

    However it ends (a kill, an interrupt, a full disk), calling it again goes on from the last state that was
    saved, and ends with the very rows of an undisturbed run, provided ``run_stage`` is a function of its task.

    Args:
        store: where the results go.
        run_stage: does the work of one task.
        shard: (i, n), to take the chunks whose number is i modulo n only.
        deadline: moment of ``time.monotonic`` at which to stop: between stages at once, within one as soon as it
            saves its state.
        most: take only the first so many chunks; all by default.
        progress: told after every stage, in stages of all chunks of the shard.
        save_seconds: between two states of a stage.
        poll: seconds between two looks at what other processes still work on.
        patience: see :class:`Claims`.

    Returns:
        Whether every chunk of the shard (of the first ``most``) is whole; False only at the deadline.

    Raises:
        ValueError: a shard that does not exist; or ``run_stage`` did not do all of its task.
        OSError: something could not be written, as on a full disk.
    """
    part, parts = shard or (0, 1)
    if not 0 <= part < parts:
        raise ValueError(f"a shard is i of n with 0 <= i < n, got {part} of {parts}")
    job = _Job(store, run_stage, deadline, save_seconds)
    claims = Claims(store.folder / "claims", patience)
    todo = list(range(store.manifest.chunks))[:most][part::parts]
    try:
        with store.at_work():
            _until_done(job, claims, todo, progress, poll)
    except Late:
        return False
    return True


def _until_done(job: "_Job", claims: Claims, todo: list[int], progress: Progress, poll: float) -> None:
    """Do the chunks ``todo``; Late at the deadline."""
    store, deadline = job.store, job.deadline
    stages = len(store.manifest.stages)
    total = len(todo) * stages
    while todo:
        left = len(todo)
        for chunk in [*todo]:
            job.check_time()
            done = total - len(todo) * stages
            if store.whole(chunk) is None:
                with claims.hold(chunk) as claim:
                    if claim is None or not _did(job.stages_of(chunk, claim), done, total, progress):
                        continue
            else:
                progress(done + stages, total, f"chunk {chunk}")
            todo.remove(chunk)
        if len(todo) == left:  # others have them all
            who = claims.holder(todo[0]) or "another process"
            progress(total - left * stages, total, f"waiting for {who} (chunk {todo[0] + 1})")
            time.sleep(poll if deadline is None else max(0.0, min(poll, deadline - time.monotonic())))


def _did(stages: Iterator[str], done: int, total: int, progress: Progress) -> bool:
    """Run the stages of a chunk and tell of each; False if the chunk is another process's now."""
    try:
        for number, what in enumerate(stages, 1):
            progress(done + number, total, what)
    except Lost:
        return False
    return True


@dataclass(frozen=True)
class _Job:
    store: Store
    run_stage: RunStage
    deadline: float | None
    save_seconds: float

    def stages_of(self, chunk: int, claim: Claim) -> Iterator[str]:
        """Do the stages of a chunk in their order, those that are done already but for a look; yields what was done."""
        store, before = self.store, Record.joined([])
        for number, stage in enumerate(store.manifest.stages):
            points = to_attack(before, stage, store.manifest.points_of(chunk), store.manifest.share)
            found = store.stage_done(chunk, number, points)
            if found is None:
                self.check_time()
                found = self._run(Task(store, claim, chunk, number, points, self.deadline, self.save_seconds))
            store.file(chunk, number).drop_state()  # a kill may have left it
            before = Record.joined([before, found])
            yield f"chunk {chunk}, {stage}"

    def _run(self, task: Task) -> Record:
        # a stage without points is stored too, so that a chunk is whole when all its files are there
        found = self.run_stage(task) if len(task.points) else Found(Record.joined([]))
        self.store.write(task.chunk, task.number, task.points, found.record, found.images, task.seconds)
        return found.record

    def check_time(self) -> None:
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise Late
