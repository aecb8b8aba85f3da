"""One stage of one chunk, as it is handed to whoever runs the attack, and what comes back."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...sealed import Damaged
from ..record import Record, Stage
from .claim import Claim
from .partial import State
from .stage_file import Images
from .store import Store


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
