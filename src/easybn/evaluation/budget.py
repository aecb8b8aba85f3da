"""As many points as fit into a time: how many is fixed after a pilot, before anything is known of the others."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ..sealed import Damaged, read_sealed, write_json
from .store import Store

PILOT = 32
"""Points a chunk under a budget, if no number is asked for: the first chunk is the pilot."""
USED = 0.9  # share of the remaining time that is planned with: a chunk that the deadline cuts off is lost


@dataclass(frozen=True)
class Budget:
    """A time to spend on a store whose points are in random order.

    Args:
        seconds: in all, of one sitting.

    Raises:
        ValueError: not a positive number.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"a budget must be a positive number of seconds, got {self.seconds}")

    def spend(self, store: Store, work: Callable[[int, float | None], bool]) -> None:
        """Run the pilot, however long it takes, and then as many chunks as the remaining time is enough for.

        The pilot's time is kept in ``budget.json``, so that the same budget means the same points after a kill.

        Args:
            store: whose chunks are to be done, in their order.
            work: ``work(chunks, deadline)`` does the first so many chunks, until ``time.monotonic()`` is
                ``deadline``, if there is one.
        """
        note, began = _note(store), time.monotonic()
        if note.exists():
            pilot = float(read_sealed(note)["pilot_seconds"])
            began -= pilot
        else:
            work(1, None)
            pilot = time.monotonic() - began
            write_json(note, {"pilot_seconds": pilot}, indent=None)
        work(self.chunks(pilot, store.manifest.chunks), began + self.seconds)

    def note(self, store: Store, whole: Collection[int]) -> None:
        """Keep which chunks are done, so that one that is lost is missed (:func:`expected_chunks`)."""
        write_json(_note(store), {**read_sealed(_note(store)), "chunks": sorted(whole)}, indent=None)

    def chunks(self, pilot: float, most: int) -> int:
        """How many of ``most`` chunks, the pilot included, given the pilot's seconds."""
        more = USED * (self.seconds - pilot) / max(pilot, 1e-6)
        return min(most, 1 + max(0, int(more)))


def expected_chunks(store: Store) -> list[int]:
    """The chunks that should be whole: all; under a budget those that were done when it was last spent."""
    if not _note(store).exists():
        return list(range(store.manifest.chunks))
    chunks = read_sealed(_note(store)).get("chunks", [0])  # the pilot is always done
    if not isinstance(chunks, list) or not all(type(c) is int and 0 <= c < store.manifest.chunks for c in chunks):
        raise Damaged(f"{_note(store)} is damaged: these are no chunks of the evaluation")
    return chunks


def _note(store: Store) -> Path:
    return store.folder / "budget.json"
