"""An evaluation with a store: the same stages, chunk by chunk, each on the disk as soon as it is done."""

import hashlib
import inspect
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..attacks.attack import Attack
from ..attacks.registry import UNBOUNDED
from ..files import check_guards
from ..json_files import Damaged, read_json, write_json
from ..keyed_random import permutation
from ..models.outputs import SelectOutput
from ..progress import OnProgress
from .config import EvaluateConfig
from .diagnostics import CHECKS, Finding
from .points import Plan, Points, StageDone, check_labels
from .record import CLEAN, Record
from .store import Manifest, StageResult, Store, Task, work
from .store.manifest import data_digest, model_digest

VERSION = "2"
"""Of the attacks; :mod:`easybn.attacks.attack` says when it is to be raised."""
CHUNK = 1000
PILOT = 32
"""Points a chunk under a budget, if no number is asked for: the first chunk is the pilot."""
_CHUNK_BYTES = 64 * 2**20  # of images: the state of a stage holds some of each, and is written every minute


def run_resumable(
    points: Points, config: EvaluateConfig, folder: Path, progress: OnProgress, follow_up: "FollowUp | None" = None
) -> "Stored":
    """Do what is missing in the store, and read what is there.

    Args:
        folder: of the store: new, empty, or with the same evaluation in it.
        follow_up: what is to be done afterwards, and is paid for by a budget too.

    Raises:
        ValueError: the folder holds another evaluation (the message names what differs); labels that do not fit;
            logits that are NaN; no chunk is done yet.
        Damaged: a ValueError; what was done was removed or damaged meanwhile.
        OSError: it cannot be written, or was removed meanwhile (Removed); what was stored is complete.
    """
    if config.keep_images and points.model.image_dtype != torch.float32:
        raise ValueError("a store keeps float32 images, which would be others than those a float64 model was fooled by")
    check_labels(points.y, points.classes)
    store = Store.open(folder, manifest(points, config))

    def run_stage(task: Task) -> StageResult:
        return _run_stage(points, task, progress)

    def show_waiting(done: int, total: int, what: str) -> None:
        if what.startswith("waiting"):  # stages report for themselves, iteration by iteration
            progress(done, total, what)

    def run_chunks(most: int, deadline: float | None) -> None:
        work(store, run_stage, shard=config.shard, deadline=deadline, most=most, progress=show_waiting)

    with store.at_work():
        if config.budget is not None:
            _spend(config.budget, store, run_chunks, follow_up)
        else:
            run_chunks(store.manifest.chunks, None)
        records = {chunk: store.chunk_record(chunk) for chunk in range(store.manifest.chunks)}
        done = {chunk: record for chunk, record in records.items() if record is not None}
        check_guards(store.folder / "attempts")
        if config.budget is not None:
            _note_chunks(store, done)
    part, parts = config.shard or (0, 1)
    if config.budget is None and (lost := [chunk for chunk in range(len(records))[part::parts] if chunk not in done]):
        what = f"{len(lost)} chunks that were done, such as {lost[0]}, were removed or damaged meanwhile"
        raise Damaged(f"{store.folder}: {what}: run the same command again")
    if not done:
        raise ValueError(f"{store.folder}: no chunk is done yet, so that there is nothing to report")
    ids = np.concatenate([store.manifest.points_of(chunk) for chunk in done])
    return Stored(points.ids[np.isin(points.ids, ids)], Record.joined(done.values()), frozenset(done), store)


@dataclass(frozen=True)
class Stored:
    """What is in a store.

    Args:
        points: int64 (n,), ids of the points of finished chunks, in the order in which they were given.
        record: every attempt at them.
        chunks: numbers of these chunks.
        store: for the images.
    """

    points: NDArray[np.int64]
    record: Record
    chunks: frozenset[int]
    store: Store

    def missing(self, config: EvaluateConfig) -> list[str]:
        """Which points it is about, if not all; a sentence."""
        asked = len(self.store.manifest.points)
        done = f"{len(self.points):,} of {asked:,} points"
        if len(self.points) == asked:
            return []
        if config.budget is None:
            return [f"{done} are done: the others belong to other shards"]
        within = f"a budget of {config.budget:g} seconds: {done}, drawn at random by the seed"
        return [f"{within}; the intervals are of that many points"]

    def stages_done(self) -> Iterator[StageDone]:
        """What each stage of each finished chunk found; if images are kept."""
        return stages_done(self.store, self.chunks)


def stages_done(store: Store, chunks: Collection[int]) -> Iterator[StageDone]:
    """What each stage of some chunks found; if images are kept."""
    for file, record, images in store.read():
        if file.chunk in chunks and images is not None and len(record):
            yield StageDone(record, images[0], torch.from_numpy(images[1]))


def manifest(points: Points, config: EvaluateConfig) -> Manifest:
    """What the evaluation is. Under a budget its points are in an order drawn by the seed."""
    plan, ids = points.plan, points.ids
    if config.budget is not None:
        ids = ids[permutation(len(ids), config.seed, "budget").numpy()]
    shared = {f.name: getattr(config, f.name) for f in fields(Manifest) if hasattr(config, f.name)}
    return Manifest(
        **shared
        | {
            "model": model_digest(points.model, tuple(points.x.shape[1:])),
            "data": data_digest(points.x, points.y),
            "points": tuple(ids.tolist()),
            "eps": tuple(sorted(config.eps)),
            "attacks": tuple(attack.name for attack in plan.attacks[min(config.eps)]),
            "chunk": _points_per_chunk(points, config),
            "preparation": points.model.preparation,
            "version": VERSION,
            "settings": _settings(plan) | _selected_output(points),
        }
    )


def _selected_output(points: Points) -> dict[str, Any]:
    """Which of a model's outputs the logits are; nothing where it returns them alone."""
    model = points.model.model
    return {"output": model.output} if isinstance(model, SelectOutput) else {}


def _points_per_chunk(points: Points, config: EvaluateConfig) -> int:
    if config.chunk is not None:
        return config.chunk
    return PILOT if config.budget else max(32, min(CHUNK, _CHUNK_BYTES // (4 * points.x[0].numel())))


STORED_NAMES = {"min_active": "beside"}
"""Settings that keep their older name in manifests: a store made before the field was renamed is the same job."""


def _settings(plan: Plan) -> dict[str, Any]:
    """The fields of every attack."""
    settings: dict[str, Any] = {"beside": plan.min_active}
    for eps, attacks in plan.attacks.items():
        settings |= {f"{attack.name} {eps!r}": _fields_of(attack) for attack in attacks}
    if unbounded := sorted(plan.unbounded - {*UNBOUNDED}):
        settings["unbounded"] = unbounded
    return settings


def _fields_of(attack: Attack) -> dict[str, Any]:
    """What decides an attack's results beside its ball; of a user's attack its class and code too."""
    names = [f.name for f in fields(attack) if f.init] if is_dataclass(attack) else [*vars(attack)]
    values = {STORED_NAMES.get(name, name): getattr(attack, name) for name in names if name != "ball"}
    kind = type(attack)
    if kind.__module__.partition(".")[0] == "easybn":
        return values
    plain = {
        name: value if isinstance(value, bool | int | float | str | None) else repr(value)
        for name, value in values.items()
    }
    return {"class": f"{kind.__module__}:{kind.__qualname__}", "code": _code_digest(kind), **plain}


def _code_digest(kind: type[Attack]) -> str:
    """Of a class's source, so that another version of a user's attack is another evaluation; "" if it has no file."""
    try:
        return hashlib.blake2b(inspect.getsource(kind).encode(), digest_size=8).hexdigest()
    except (OSError, TypeError):  # typed into an interpreter
        return ""


def _run_stage(points: Points, task: Task, progress: OnProgress) -> StageResult:
    chunks, ids = task.store.manifest.chunks, task.store.manifest.points_of(task.chunk)

    def show(done: int, total: int, what: str) -> None:
        progress(done, total, f"{what}, chunk {task.chunk + 1} of {chunks}" if chunks > 1 else what)

    if task.stage != CLEAN:
        points.classify(ids)  # a process that resumes a stage has not seen the clean one
    done = points.run(
        task.stage, task.points, resume=task.resume(), save=task.save, due=task.due, progress=show
    )  # fmt: skip
    images = (done.points, done.images.float().numpy()) if task.store.manifest.keep_images else None
    return StageResult(done.record, images)


# A budget: as many points as fit into a time. How many is fixed after a pilot, before anything is known of the others.

USED = 0.9  # share of the remaining time that is planned with: a chunk that the deadline cuts off is lost


class FollowUp(Protocol):
    """Work on what the chunks leave, whose time is part of the budget."""

    def measure(self) -> float:
        """Seconds that one unit of it takes; measured once, after the pilot, and kept with the pilot's time."""
        ...

    def seconds(self, unit: float, remaining: float, pilot: Record, chunks: int) -> float:
        """Seconds that it takes after so many chunks.

        Args:
            unit: what was measured.
            remaining: seconds of the budget after the pilot that are planned with.
            pilot: every attempt at the pilot's points.
            chunks: that are done before it, the pilot included.
        """
        ...


def _spend(
    seconds: float,
    store: Store,
    run_chunks: Callable[[int, float | None], None],
    follow_up: FollowUp | None = None,
) -> None:
    """Run the pilot, however long it takes, and then as many chunks as the remaining time is enough for.

    The pilot's time is kept in ``budget.json``, so that the same budget means the same points after a kill.

    Args:
        store: whose chunks are to be done, in their order.
        run_chunks: does the first so many chunks, until ``time.monotonic()`` is the deadline, if there is one.
        follow_up: see :func:`run_resumable`.
    """
    note, began = _budget_note(store), time.monotonic()
    if note.exists():
        began -= pilot_seconds(store)
    else:
        run_chunks(1, None)
        write_json(note, {"pilot_seconds": time.monotonic() - began}, indent=None)
    if follow_up and not unit_seconds(store):
        write_json(note, {**read_json(note), "unit_seconds": follow_up.measure()}, indent=None)
    pilot, unit, record = pilot_seconds(store), unit_seconds(store), store.chunk_record(0)

    def afterwards(chunks: int) -> float:
        return follow_up.seconds(unit, planned(seconds, pilot), record, chunks) if follow_up and record else 0.0

    chunks = chunks_within(seconds, pilot, store.manifest.chunks, afterwards)
    run_chunks(chunks, began + seconds - afterwards(chunks))


def pilot_seconds(store: Store) -> float:
    """How long the pilot of a budget took."""
    return float(read_json(_budget_note(store))["pilot_seconds"])


def unit_seconds(store: Store) -> float:
    """What :meth:`FollowUp.measure` gave after the pilot; 0 if it was not asked."""
    return float(read_json(_budget_note(store)).get("unit_seconds", 0.0))


def planned(seconds: float, pilot: float) -> float:
    """Seconds of a budget that are planned with after the pilot's."""
    return max(0.0, USED * (seconds - pilot))


def chunks_within(
    seconds: float, pilot: float, most: int, afterwards: Callable[[int], float] = lambda chunks: 0.0
) -> int:
    """How many of ``most`` chunks fit into a budget, the pilot included.

    Args:
        seconds: of the budget; pilot: of the pilot.
        afterwards: seconds of what follows so many chunks; not fewer after more chunks.
    """
    least, enough = 1, most
    while least < enough:
        chunks = (least + enough + 1) // 2
        fits = (chunks - 1) * max(pilot, 1e-6) + afterwards(chunks) <= planned(seconds, pilot)
        least, enough = (chunks, enough) if fits else (least, chunks - 1)
    return least


def _note_chunks(store: Store, done: Collection[int]) -> None:
    """Keep which chunks are done, so that one that is lost is missed (:func:`expected_chunks`)."""
    write_json(_budget_note(store), {**read_json(_budget_note(store)), "chunks": sorted(done)}, indent=None)


def expected_chunks(store: Store) -> list[int]:
    """The chunks that should be done: all; under a budget those that were done when it was last spent."""
    if not _budget_note(store).exists():
        return list(range(store.manifest.chunks))
    chunks = read_json(_budget_note(store)).get("chunks", [0])  # the pilot is always done
    if not isinstance(chunks, list) or not all(type(c) is int and 0 <= c < store.manifest.chunks for c in chunks):
        raise Damaged(f"{_budget_note(store)} is damaged: these are no chunks of the evaluation")
    return chunks


def _budget_note(store: Store) -> Path:
    return store.folder / "budget.json"


FINDINGS = "findings.json"
"""Of a store: the diagnosis of the evaluation, with the number of points and the names of the checks that it is of."""


def read_findings(folder: Path | str, points: int, audited: int = 0) -> list[Finding] | None:
    """The diagnosis that a store keeps; None if it is of other points, audits or checks, damaged, or not there.

    Args:
        points: how many it is to be of.
        audited: points that were audited by then, of all radii together.
    """
    try:
        kept = read_json(Path(folder) / FINDINGS)
        if (kept["points"], kept.get("audited", 0), kept["checks"]) != (points, audited, list(CHECKS)):
            return None
        return [Finding(**each) for each in kept["findings"]]
    except (FileNotFoundError, Damaged, KeyError, TypeError):
        return None


def write_findings(folder: Path | str, points: int, findings: Sequence[Finding], audited: int = 0) -> None:
    """Keep a diagnosis with the verdicts; arguments as of :func:`read_findings`.

    Raises:
        OSError: it cannot be written.
    """
    kept: dict[str, Any] = {"points": points} | ({"audited": audited} if audited else {})
    kept |= {"checks": list(CHECKS), "findings": [asdict(each) for each in findings]}
    with Store.existing(folder).at_work():
        write_json(Path(folder) / FINDINGS, kept, indent=1)
