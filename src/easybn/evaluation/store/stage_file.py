"""The files of one stage of one chunk: each there as a whole or not at all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files import explained, replacing
from ...reading import read_bytes
from ...sealed import Damaged, digest
from ..record import Record
from . import partial
from .encode import from_parquet, from_safetensors, seconds_in, to_parquet, to_safetensors

Images = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Ids of points, (k,), each once, and their adversarial images, (k, ...)."""
ENDINGS = {"attempts": "parquet", "images": "safetensors", "partial": "state"}


@dataclass(frozen=True)
class StageFile:
    """What is on the disk of a stage: its tries, images, and while it is under way its state.

    Args:
        folder: of the evaluation.
        job: digest of its manifest; the files of any other count as damaged.
        chunk: number of the chunk.
        stage: number of the stage.
    """

    folder: Path
    job: str
    chunk: int
    stage: int

    def path(self, kind: str = "attempts") -> Path:
        """Where the file of a kind is: "attempts", "images" or "partial"."""
        return self.folder / kind / f"{self.chunk:05d}-{self.stage:02d}.{ENDINGS[kind]}"

    def load(self) -> tuple[Record, Images | None] | None:
        """The tries, and the images if they were kept; None if the stage is not there.

        Raises:
            Damaged: it is there and not as it was written, or of another job.
        """
        if (data := _bytes(self.path())) is None:
            return None
        record, name = from_parquet(data)
        if name != self._name(name.get("images")):
            raise Damaged("it is of another evaluation")
        if name["images"] is None:
            return record, None
        images = _bytes(self.path("images"))
        if images is None or digest(images) != name["images"]:
            raise Damaged("its images are missing or have changed")
        return record, from_safetensors(images)

    @property
    def seconds(self) -> float:
        """That the stage took, in all sittings; 0 if it is not there."""
        data = _bytes(self.path())
        return 0.0 if data is None else seconds_in(data)

    def save(self, record: Record, images: Images | None, seconds: float = 0.0) -> None:
        """Store the stage and drop its state; OSError if it could not be written, and then it is not there."""
        name = None
        if images is not None:
            data = to_safetensors(*images)
            name = digest(data)
            _write(self.path("images"), data)
        # the tries come last, because the stage counts as done once they are there
        _write(self.path(), to_parquet(record, self._name(name), seconds))
        self.drop_state()

    def put_aside(self) -> Path:
        """Rename the file of tries, so that the stage is not there any more; where it is now."""
        path = self.path()
        return path.replace(path.with_name(path.name + ".corrupt"))

    def save_state(self, state: partial.State, points: NDArray[np.int64]) -> None:
        """Keep the state of a stage under way in place of the one before; OSError if it could not be written.

        Args:
            state: tensors and plain values.
            points: int64 (n,), ids of the points under attack.
        """
        _write(self.path("partial"), partial.to_bytes(state, self._state_name, points))

    def load_state(self, points: NDArray[np.int64]) -> partial.State | None:
        """The state that was kept for the same points, or None; Damaged as :meth:`load`."""
        data = _bytes(self.path("partial"))
        return None if data is None else partial.from_bytes(data, self._state_name, points)

    def drop_state(self) -> None:
        """Forget the state."""
        self.path("partial").unlink(missing_ok=True)

    def _name(self, images: str | None) -> dict[str, Any]:
        return {"job": self.job, "chunk": self.chunk, "stage": self.stage, "images": images}

    @property
    def _state_name(self) -> str:
        return f"{self.job}/{self.chunk}/{self.stage}"


def _write(path: Path, data: bytes) -> None:
    with explained(path), replacing(path) as file:
        file.write(data)


def _bytes(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None
