"""The files of one stage of one chunk: each complete or not there at all."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...files import explained, read_bytes, replacing
from ...json_files import Damaged, digest, with_checksum, without_checksum
from ..record import DTYPES, Record

# The state of a stage that is under way, as bytes: what a process that takes over resumes from.

State = dict[str, Any]
"""Tensors and plain values, also nested in dicts, lists and tuples."""
_SIZE = 32


def to_bytes(state: State, name: str, points: NDArray[np.int64]) -> bytes:
    """``state`` with the name of its stage and a checksum in front.

    Args:
        state: what to keep.
        name: of the job and stage.
        points: int64 (n,), the ids of the points under attack: the rows of the state follow from them.
    """
    buffer = io.BytesIO()
    torch.save({"name": name, "points": torch.tensor(points), "state": state}, buffer)
    data = buffer.getvalue()
    return hashlib.blake2b(data, digest_size=_SIZE).digest() + data


def from_bytes(data: bytes, name: str, points: NDArray[np.int64]) -> State:
    """The state that was given to :func:`to_bytes` under the same name and for the same points.

    Nothing but tensors (on the CPU) and plain values is unpickled.

    Raises:
        Damaged: the bytes are incomplete, or of another stage.
    """
    if hashlib.blake2b(data[_SIZE:], digest_size=_SIZE).digest() != data[:_SIZE]:
        raise Damaged("its checksum is another one")
    try:
        content = torch.load(io.BytesIO(data[_SIZE:]), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Damaged(f"it holds more than tensors and plain values ({type(error).__name__})") from error
    if content["name"] != name or not np.array_equal(content["points"].numpy(), points):
        raise Damaged("it is of another job")
    state: State = content["state"]
    return state


# The files of a stage as bytes, which say what stage they are of and whether they are damaged.

_KEY = b"easybn"


def to_parquet(record: Record, name: dict[str, Any], seconds: float = 0.0) -> bytes:
    """A Parquet file of ``record``, with ``name`` (values that JSON knows) and a checksum in its metadata.

    Args:
        seconds: that the record took, for :func:`seconds_in`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {"name": name, "record": _checksum(record, name), "seconds": seconds}
    header = json.dumps(with_checksum(about)).encode()
    table = pa.table({column: pa.array(values) for column, values in _arrow(record).items()}, metadata={_KEY: header})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def from_parquet(data: bytes) -> tuple[Record, dict[str, Any]]:
    """What was given to :func:`to_parquet`.

    Raises:
        Damaged: ``data`` is incomplete, or was never written by it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        header = _header(table.schema.metadata)
        record = Record(**{name: table.column(STORED_NAMES.get(name, name)).to_numpy() for name in DTYPES})
        name = dict(header["name"])
        intact = header["record"] == _checksum(record, name)
    except Exception as error:  # pyarrow has many for bytes that make no sense, and none of them is about the disk
        raise Damaged(f"no Parquet file of ours ({type(error).__name__})") from error
    if not intact:
        raise Damaged("its checksum is another one")
    return record, name


def seconds_in(data: bytes) -> float:
    """The seconds that were given to :func:`to_parquet`; 0 in files from before they were kept, or damaged ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return float(_header(pq.read_schema(pa.BufferReader(data)).metadata)["seconds"])
    except Exception:  # as above; only reading the record tells of damage
        return 0.0


def to_safetensors(point: NDArray[np.int64], image: NDArray[np.float32]) -> bytes:
    """A safetensors file of ``point`` (n,) and ``image`` (n, ...)."""
    from safetensors.numpy import save

    return bytes(save({"point": np.ascontiguousarray(point), "image": np.ascontiguousarray(image)}))


def from_safetensors(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What was given to :func:`to_safetensors`, whose bytes these are known to be."""
    from safetensors.numpy import load

    tensors = load(data)
    return tensors["point"], tensors["image"]


def _header(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    header = json.loads(metadata[_KEY])
    if "record" not in header:  # of an earlier version, whose checksum was of the record alone
        return {**header, "record": header["checksum"]}
    return without_checksum(header, "its header")


STORED_NAMES = {"success": "fell"}
"""Columns that keep their older name in files, so that old and new stores are read alike."""


def _columns(record: Record) -> dict[str, NDArray[Any]]:
    return {STORED_NAMES.get(name, name): values for name, values in record.columns.items()}


def _arrow(record: Record) -> dict[str, Any]:
    return {name: values.tolist() if name == "attack" else values for name, values in _columns(record).items()}


def _checksum(record: Record, name: dict[str, Any]) -> str:
    parts = [json.dumps(name, sort_keys=True).encode()]
    for column, values in _columns(record).items():
        data = "\n".join(values.tolist()).encode() if column == "attack" else values.tobytes()
        parts += [column.encode(), data]
    return digest(*parts)


Images = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Ids of points, (k,), each once, and their adversarial images, (k, ...)."""
ENDINGS = {"attempts": "parquet", "images": "safetensors", "partial": "state"}


@dataclass(frozen=True)
class StageFile:
    """The files of a stage: its attempts and images, and its state while it is under way.

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
        """The attempts, and the images if they were kept; None if the stage is not there.

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
        """That the stage took, in all sessions; 0 if it is not there."""
        data = _bytes(self.path())
        return 0.0 if data is None else seconds_in(data)

    def save(self, record: Record, images: Images | None, seconds: float = 0.0) -> None:
        """Store the stage and drop its state; OSError if it could not be written, and then it is not there."""
        name = None
        if images is not None:
            data = to_safetensors(*images)
            name = digest(data)
            _write(self.path("images"), data)
        # the attempts come last, because the stage counts as done once they are there
        _write(self.path(), to_parquet(record, self._name(name), seconds))
        self.drop_state()

    def put_aside(self) -> Path:
        """Rename the file of attempts, so that the stage is not there any more; where it is now."""
        path = self.path()
        return path.replace(path.with_name(path.name + ".corrupt"))

    def save_state(self, state: State, points: NDArray[np.int64]) -> None:
        """Keep the state of a stage under way in place of the one before; OSError if it could not be written.

        Args:
            state: tensors and plain values.
            points: int64 (n,), ids of the points under attack.
        """
        _write(self.path("partial"), to_bytes(state, self._state_name, points))

    def load_state(self, points: NDArray[np.int64]) -> State | None:
        """The state that was kept for the same points, or None; Damaged as :meth:`load`."""
        data = _bytes(self.path("partial"))
        return None if data is None else from_bytes(data, self._state_name, points)

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
