"""An evaluation on the verdict store: the same stages, chunk by chunk, each on the disk as soon as it is done."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..files import check_guards
from ..json_files import Damaged, read_json, write_json
from ..keyed_random import permutation
from ..progress import OnProgress
from .config import Choice
from .diagnostics import CHECKS, Finding
from .points import Done, Plan, Points, check_labels
from .record import CLEAN, Record
from .store import Manifest, StageResult, Store, Task, work
from .store.manifest import data_digest, model_digest

# As many points as fit into a time: how many is fixed after a pilot, before anything is known of the others.

PILOT = 32
"""Points a chunk under a budget, if no number is asked for: the first chunk is the pilot."""
USED = 0.9  # share of the remaining time that is planned with: a chunk that the deadline cuts off is lost


@dataclass(frozen=True)
class Budget:
    """A time to spend on a store whose points are in random order.

    Args:
        seconds: in all, of one session.

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
            pilot = float(read_json(note)["pilot_seconds"])
            began -= pilot
        else:
            work(1, None)
            pilot = time.monotonic() - began
            write_json(note, {"pilot_seconds": pilot}, indent=None)
        work(self.chunks(pilot, store.manifest.chunks), began + self.seconds)

    def note(self, store: Store, whole: Collection[int]) -> None:
        """Keep which chunks are done, so that one that is lost is missed (:func:`expected_chunks`)."""
        write_json(_note(store), {**read_json(_note(store)), "chunks": sorted(whole)}, indent=None)

    def chunks(self, pilot: float, most: int) -> int:
        """How many of ``most`` chunks, the pilot included, given the pilot's seconds."""
        more = USED * (self.seconds - pilot) / max(pilot, 1e-6)
        return min(most, 1 + max(0, int(more)))


def expected_chunks(store: Store) -> list[int]:
    """The chunks that should be whole: all; under a budget those that were done when it was last spent."""
    if not _note(store).exists():
        return list(range(store.manifest.chunks))
    chunks = read_json(_note(store)).get("chunks", [0])  # the pilot is always done
    if not isinstance(chunks, list) or not all(type(c) is int and 0 <= c < store.manifest.chunks for c in chunks):
        raise Damaged(f"{_note(store)} is damaged: these are no chunks of the evaluation")
    return chunks


def _note(store: Store) -> Path:
    return store.folder / "budget.json"


# What an evaluation on the verdict store is, and which part of it is to be done here.

VERSION = "1"
"""Of the attacks; :mod:`easybn.attacks.attack` says when it is to be raised."""
CHUNK = 1000
_CHUNK_BYTES = 64 * 2**20  # of images: the state of a stage holds some of each, and is written every minute


@dataclass(frozen=True)
class Storing:
    """How a store is filled.

    Args:
        folder: new, empty, or with the same evaluation in it.
        chunk: points whose stages are done together; part of what the evaluation is. By default 1000, fewer if
            images are large; 32 under a budget.
        shard: (i, n), 0 <= i < n: only every n-th chunk, from the i-th on.
        budget: take points in random order, as many as fit into this time.
        branch: of the model, kept with the verdicts.

    Raises:
        ValueError: a shard that does not exist, a chunk below 1, a shard of a budget.
    """

    folder: Path
    chunk: int | None = None
    shard: tuple[int, int] | None = None
    budget: Budget | None = None
    branch: str | None = None

    def __post_init__(self) -> None:
        part, parts = self.shard or (0, 1)
        if not 0 <= part < parts:
            raise ValueError(f"there is no shard {part} of {parts}: a shard is i of n with i from 0 to n - 1")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.shard and self.budget:
            raise ValueError("a budget cannot be split into shards: start it once, or take shards of --points")

    @classmethod
    def of(
        cls,
        store: Path | str | None,
        chunk: int | None,
        shard: tuple[int, int] | None,
        budget: float | None,
        branch: str | None = None,
    ) -> "Storing | None":
        """From the arguments of :func:`easybn.evaluate`; None without a store."""
        if store is not None:
            return cls(Path(store), chunk, shard, None if budget is None else Budget(budget), branch)
        given = {"chunk": chunk, "shard": shard, "budget": budget, "branch": branch}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{wrong[0]} is about a store: give store=FOLDER too")
        return None

    def points_a_chunk(self, points: Points) -> int:
        """The default resolved."""
        if self.chunk is not None:
            return self.chunk
        return PILOT if self.budget else max(32, min(CHUNK, _CHUNK_BYTES // (4 * points.x[0].numel())))


def manifest(points: Points, choice: Choice, storing: Storing, keep_images: bool) -> Manifest:
    """What the evaluation is. Under a budget its points are in an order drawn by the seed."""
    plan, ids = points.plan, points.ids
    if storing.budget:
        ids = ids[permutation(len(ids), plan.seed, "budget").numpy()]
    return Manifest(
        model=model_digest(points.model, tuple(points.x.shape[1:])),
        data=data_digest(points.x, points.y),
        points=tuple(ids.tolist()),
        norm=choice.norm,
        eps=tuple(sorted(plan.attacks)),
        attacks=tuple(attack.name for attack in next(iter(plan.attacks.values()))),
        seed=plan.seed,
        batch_size=plan.batch_size,
        chunk=storing.points_a_chunk(points),
        share=plan.share,
        keep_images=keep_images,
        preparation=points.model.preparation,
        version=VERSION,
        settings=_settings(plan),
        branch=storing.branch,
    )


STORED_NAMES = {"min_active": "beside"}
"""Settings that keep their older name in manifests: a store made before the field was renamed is the same job."""


def _settings(plan: Plan) -> dict[str, Any]:
    """The fields of every attack."""
    of = {f"{attack.name} {eps!r}": attack for eps, attacks in plan.attacks.items() for attack in attacks}
    settings: dict[str, Any] = {"beside": plan.min_active}
    for name, attack in of.items():
        own = {f.name: getattr(attack, f.name) for f in fields(attack) if f.init and f.name != "ball"}  # type: ignore[arg-type]
        settings[name] = {STORED_NAMES.get(field, field): value for field, value in own.items()}
    return settings


FINDINGS = "findings.json"
"""Of a store: the diagnosis of the evaluation, with the number of points and the names of the checks that it is of."""


@dataclass(frozen=True)
class Stored:
    """What is in a store.

    Args:
        points: int64 (n,), ids of the points of whole chunks, in the order in which they were given.
        record: every try at them.
        chunks: numbers of these chunks.
        store: for the images.
    """

    points: NDArray[np.int64]
    record: Record
    chunks: frozenset[int]
    store: Store

    def missing(self, storing: Storing) -> list[str]:
        """Which points it is about, if not all; a sentence."""
        asked = len(self.store.manifest.points)
        done = f"{len(self.points):,} of {asked:,} points"
        if len(self.points) == asked:
            return []
        if storing.budget is None:
            return [f"{done} are done: the others belong to other shards"]
        within = f"a budget of {storing.budget.seconds:g} seconds: {done}, drawn at random by the seed"
        return [f"{within}; the intervals are of that many points"]

    def found(self) -> Iterator[Done]:
        """What each stage of each whole chunk found; if images are kept."""
        for file, record, images in self.store.read():
            if file.chunk in self.chunks and images is not None and len(record):
                yield Done(record, images[0], torch.from_numpy(images[1]))


def run_stored(points: Points, choice: Choice, storing: Storing, keep_images: bool, progress: OnProgress) -> Stored:
    """Do what is missing in the store, and read what is there.

    Raises:
        ValueError: the folder holds another evaluation (the message names what differs); labels that do not fit;
            logits that are NaN; no chunk is whole yet.
        Damaged: a ValueError; what was done was removed or damaged meanwhile.
        OSError: it cannot be written, or was removed meanwhile (Removed); what was stored is whole.
    """
    if keep_images and points.model.image_dtype != torch.float32:
        raise ValueError("a store keeps float32 images, which would be others than those a float64 model was fooled by")
    check_labels(points.y, points.classes)
    store = Store.open(storing.folder, manifest(points, choice, storing, keep_images))

    def run_stage(task: Task) -> StageResult:
        return _run(points, task, progress)

    def do(chunks: int, deadline: float | None) -> bool:
        return work(store, run_stage, shard=storing.shard, deadline=deadline, most=chunks, progress=waiting)

    def waiting(done: int, total: int, what: str) -> None:
        if what.startswith("waiting"):  # of all else the stages tell themselves, iteration by iteration
            progress(done, total, what)

    with store.at_work():
        if storing.budget:
            storing.budget.spend(store, do)
        else:
            do(store.manifest.chunks, None)
        every = {chunk: store.chunk_record(chunk) for chunk in range(store.manifest.chunks)}
        whole = {chunk: record for chunk, record in every.items() if record is not None}
        check_guards(store.folder / "attempts")
        if storing.budget:
            storing.budget.note(store, whole)
    part, parts = storing.shard or (0, 1)
    if not storing.budget and (gone := [chunk for chunk in range(len(every))[part::parts] if chunk not in whole]):
        what = f"{len(gone)} chunks that were done, such as {gone[0]}, were removed or damaged meanwhile"
        raise Damaged(f"{store.folder}: {what}: run the same command again")
    if not whole:
        raise ValueError(f"{store.folder}: no chunk is whole yet, so that there is nothing to report")
    done = np.concatenate([store.manifest.points_of(chunk) for chunk in whole])
    return Stored(points.ids[np.isin(points.ids, done)], Record.joined(whole.values()), frozenset(whole), store)


def _run(points: Points, task: Task, progress: OnProgress) -> StageResult:
    chunks, ids = task.store.manifest.chunks, task.store.manifest.points_of(task.chunk)

    def tell(done: int, total: int, what: str) -> None:
        progress(done, total, f"{what}, chunk {task.chunk + 1} of {chunks}" if chunks > 1 else what)

    if task.stage != CLEAN:
        points.classify(ids)  # a process that goes on with a stage has not seen the clean one
    done = points.run(
        task.stage, task.points, resume=task.resume(), save=task.save, due=task.due, progress=tell
    )  # fmt: skip
    images = (done.points, done.images.float().numpy()) if task.store.manifest.keep_images else None
    return StageResult(done.record, images)


def read_findings(store: Store, points: int) -> list[Finding] | None:
    """The diagnosis that the store keeps; None if it is of other points or checks, damaged, or not there."""
    try:
        kept = read_json(store.folder / FINDINGS)
        if (kept["points"], kept["checks"]) != (points, list(CHECKS)):
            return None
        return [Finding(**each) for each in kept["findings"]]
    except (FileNotFoundError, Damaged, KeyError, TypeError):
        return None


def write_findings(store: Store, points: int, findings: Sequence[Finding]) -> None:
    """Keep a diagnosis with the verdicts.

    Raises:
        OSError: it cannot be written.
    """
    kept = {"points": points, "checks": list(CHECKS), "findings": [asdict(each) for each in findings]}
    with store.at_work():
        write_json(store.folder / FINDINGS, kept, indent=1)
