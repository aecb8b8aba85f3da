"""The folder of an evaluation: what it is, what is done of it, and the verdicts that follow."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...attacks.registry import PRESETS
from ...files import guarding, sweep
from ...json_files import Damaged
from ..record import CLEAN, Record, Stage, check_stage
from ..verdicts import Verdicts, derive
from .manifest import NAME, Manifest, open_store, read_manifest
from .stage_file import ENDINGS, Images, StageFile

# Validation of what is stored of a stage.


def check_images(record: Record, stage: Stage, point: NDArray[np.int64], image: NDArray[np.float32]) -> None:
    """See that there is one image a point, and one for every point for which one was found (clean: its own serves).

    Args:
        record: the rows of the stage.
        stage: which it is.
        point: int64 (k,), whose images they are.
        image: float32 (k, ...).

    Raises:
        ValueError: what is wrong.
        TypeError: images that are not float32, which rounding would make other images.
    """
    if image.dtype != np.float32:
        raise TypeError(f"{stage}: images must be float32, got {image.dtype}")
    if point.shape != image.shape[:1] or len(np.unique(point)) < len(point):
        raise ValueError(f"{stage}: {len(image)} images for {len(np.unique(point))} points: one a point")
    found = record.point[np.isfinite(record.distance)]
    if len(extra := np.setdiff1d(point, found)):
        raise ValueError(f"{stage}: an image of point {extra[0]}, for which none was found")
    if stage != CLEAN and len(missing := np.setdiff1d(found, point)):
        raise ValueError(f"{stage}: no image of {len(missing)} points for which one was found, such as {missing[0]}")


def validated(file: StageFile, stage: Stage, points: NDArray[np.int64]) -> Record | None:
    """What is stored of a stage, or None.

    Args:
        file: of the stage.
        stage: which it is.
        points: int64 (n,), ids of the points that it has to attack now.

    Raises:
        Damaged: it is not as it was written, or was made for other points. That happens where an earlier stage
            was computed again on a machine whose kernels round differently.
    """
    if (found := file.load()) is None:
        return None
    try:
        check_stage(found[0], stage, points)
    except ValueError as error:
        raise Damaged(f"it does not follow from the stages before ({error})") from error
    return found[0]


_NO_IMAGES: Images = (np.empty(0, np.int64), np.empty((0, 0), np.float32))


def warn(line: str) -> None:
    """Report by a Python warning."""
    warnings.warn(line, stacklevel=3)


@dataclass(frozen=True)
class Store:
    """An evaluation in a folder; from :meth:`open` or :meth:`existing`.

    Args:
        folder: where it is.
        manifest: what it is.
        report: called with a line for each damaged file.
    """

    folder: Path
    manifest: Manifest
    report: Callable[[str], None] = warn

    @classmethod
    def open(cls, folder: Path | str, manifest: Manifest, report: Callable[[str], None] = warn) -> "Store":
        """The job ``manifest`` in ``folder``, which is new, empty, or holds that very job.

        Raises:
            ValueError: the folder holds another job (the message names what differs) or other things.
            OSError: it cannot be written.
        """
        return cls(Path(folder), open_store(Path(folder), manifest), report)

    @classmethod
    def existing(cls, folder: Path | str, report: Callable[[str], None] = warn) -> "Store":
        """The job that ``folder`` holds.

        Raises:
            FileNotFoundError: it holds none.
            ValueError: its manifest cannot be understood.
        """
        return cls(Path(folder), read_manifest(Path(folder)), report)

    @property
    def deployed(self) -> bool:
        """Whether its verdicts are on the deployed model of a run, not on another branch.

        A manifest from before branches were written into it does not say: then the folder's name tells, whose first
        word is the attacks' for the deployed branch, and the branch's for another one.
        """
        if self.manifest.branch is not None:
            return self.manifest.branch == "main"
        ends = "-".join([self.manifest.norm, *(f"{eps:.4g}" for eps in self.manifest.eps)])
        named = re.fullmatch(rf"(.+)-{re.escape(ends)}-\w+", self.folder.name)
        expanded = {"pgd": ("pgd-ce", "pgd-margin"), "clean": (), **PRESETS}
        words = named[1].split("+") if named else ["?"]
        return {name for word in words for name in expanded.get(word, (word,))} == set(self.manifest.attacks)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """For as long as the block lasts, nothing is written once the folder was removed or made anew (Removed).

        What killed processes left half-written is removed first.
        """
        for kind, ending in ENDINGS.items():
            named = re.compile(rf"\d{{5,}}-\d\d+\.{ending}")
            sweep(self.folder / kind, lambda name, named=named: bool(named.fullmatch(name)))  # type: ignore[misc]
        sweep(self.folder, {"audit.json", "budget.json", "findings.json"}.__contains__)
        with guarding(self.folder, self.folder / NAME):
            yield

    def file(self, chunk: int, stage: int) -> StageFile:
        """The files of a stage."""
        return StageFile(self.folder, self.manifest.digest, chunk, stage)

    def stage_record(self, chunk: int, stage: int, points: NDArray[np.int64]) -> Record | None:
        """What is stored of a stage, or None if it is to be computed.

        What is damaged, or does not follow from the stages before it, is put aside and reported. Only the
        process that holds the chunk may call this.

        Args:
            chunk: number of the chunk.
            stage: number of the stage.
            points: int64 (n,), ids of the points that the stage has to attack.
        """
        file = self.file(chunk, stage)
        try:
            return validated(file, self.manifest.stages[stage], points)
        except Damaged as error:
            self.report(f"{file.path()}: {error}; put aside as {file.put_aside().name}, to be computed again")
            return None

    @property
    def seconds(self) -> float:
        """Seconds that the stored stages took, of all sessions and processes; what a kill lost does not count."""
        stages = range(len(self.manifest.stages))
        return sum(self.file(chunk, stage).seconds for chunk in range(self.manifest.chunks) for stage in stages)

    def write(
        self,
        chunk: int,
        stage: int,
        points: NDArray[np.int64],
        record: Record,
        images: Images | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Store a finished stage, and drop its state.

        Args:
            chunk: number of the chunk.
            stage: number of the stage.
            points: int64 (n,), ids of the points that the stage had to attack.
            record: at least a row for each of them, in any order.
            images: of the points with a finite distance; left out unless the job keeps images.
            seconds: that it took.

        Raises:
            ValueError: the record is not that of a finished stage, or images are missing.
            TypeError: images that are not float32.
            OSError: it could not be written; nothing is half-written.
        """
        check_stage(record, self.manifest.stages[stage], points)
        kept = (images or _NO_IMAGES) if self.manifest.keep_images else None
        if kept is not None:
            check_images(record, self.manifest.stages[stage], *kept)
        self.file(chunk, stage).save(record.sorted(), kept, seconds)

    def chunk_record(self, chunk: int) -> Record | None:
        """All attempts at a chunk's points if every stage is there and valid, else None."""
        stages = self.manifest.stages
        if not self.file(chunk, len(stages) - 1).path().exists():
            return None  # the usual case, at little cost
        done, points = Record.joined([]), self.manifest.points_of(chunk)
        for number, stage in enumerate(stages):
            try:
                found = validated(self.file(chunk, number), stage, self.manifest.to_attack(done, stage, points))
            except Damaged:
                return None
            if found is None:
                return None
            done = Record.joined([done, found])
        return done

    def damage(self, chunk: int) -> str:
        """The first file of a chunk that is damaged, and how; "" if none is."""
        done, points = Record.joined([]), self.manifest.points_of(chunk)
        for number, stage in enumerate(self.manifest.stages):
            file = self.file(chunk, number)
            try:
                found = validated(file, stage, self.manifest.to_attack(done, stage, points))
            except Damaged as error:
                return f"{file.path()} is damaged: {error}"
            if found is None:
                return ""
            done = Record.joined([done, found])
        return ""

    def read(self) -> Iterator[tuple[StageFile, Record, Images | None]]:
        """All that is stored, chunks under way included; what is damaged is left out and reported."""
        for chunk in range(self.manifest.chunks):
            for stage in range(len(self.manifest.stages)):
                file = self.file(chunk, stage)
                try:
                    found = file.load()
                except Damaged as error:
                    self.report(f"{file.path()}: {error}; left out")
                    continue
                if found is not None:
                    yield file, *found

    @property
    def record(self) -> Record:
        """All attempts that :meth:`read` gives."""
        return Record.joined(record for _, record, _ in self.read())

    def verdicts(self) -> Verdicts:
        """On the points of all finished chunks."""
        every = {chunk: self.chunk_record(chunk) for chunk in range(self.manifest.chunks)}
        done = {chunk: record for chunk, record in every.items() if record is not None}
        points = np.concatenate([np.empty(0, np.int64), *(self.manifest.points_of(chunk) for chunk in done)])
        job = self.manifest
        return derive(Record.joined(done.values()), points, job.stages, job.share, job.unbounded)
