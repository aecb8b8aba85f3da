"""An evaluation on the verdict store: the same stages, chunk by chunk, each on the disk as soon as it is done."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..attacks.prepare import Progress
from ..files import check_guards
from ..sealed import Damaged, read_sealed, write_json
from .choice import Choice
from .diagnose import CHECKS, Finding
from .labels import check_labels
from .points import Done, Points
from .record import CLEAN, Record
from .store import Found, Store, Task, work
from .storing import Storing, manifest

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


def run_stored(points: Points, choice: Choice, storing: Storing, keep_images: bool, progress: Progress) -> Stored:
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

    def run_stage(task: Task) -> Found:
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
        every = {chunk: store.whole(chunk) for chunk in range(store.manifest.chunks)}
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


def _run(points: Points, task: Task, progress: Progress) -> Found:
    chunks, ids = task.store.manifest.chunks, task.store.manifest.points_of(task.chunk)

    def tell(done: int, total: int, what: str) -> None:
        task.beat()
        progress(done, total, f"{what}, chunk {task.chunk + 1} of {chunks}" if chunks > 1 else what)

    if task.stage != CLEAN:
        points.classify(ids)  # a process that goes on with a stage has not seen the clean one
    done = points.run(
        task.stage, task.points, resume=task.resume(), save=task.save, due=task.due, progress=tell
    )  # fmt: skip
    images = (done.points, done.images.float().numpy()) if task.store.manifest.keep_images else None
    return Found(done.record, images)


def read_findings(store: Store, points: int) -> list[Finding] | None:
    """The diagnosis that the store keeps; None if it is of other points or checks, damaged, or not there."""
    try:
        kept = read_sealed(store.folder / FINDINGS)
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
