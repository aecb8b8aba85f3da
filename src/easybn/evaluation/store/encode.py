"""The files of a stage as bytes that tell whose they are, and whether they are still what was written."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...sealed import Damaged, digest, seal, unseal
from ..record import DTYPES, Record

_KEY = b"easybn"


def to_parquet(record: Record, name: dict[str, Any], seconds: float = 0.0) -> bytes:
    """A Parquet file of ``record``, with ``name`` (values that JSON knows) and a checksum in its metadata.

    Args:
        seconds: that the record took, for :func:`seconds_in`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = {"name": name, "record": _checksum(record, name), "seconds": seconds}
    header = json.dumps(seal(said)).encode()
    table = pa.table({column: pa.array(values) for column, values in _arrow(record).items()}, metadata={_KEY: header})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def from_parquet(data: bytes) -> tuple[Record, dict[str, Any]]:
    """What was given to :func:`to_parquet`.

    Raises:
        Damaged: ``data`` is not whole, or was never written by it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        header = _header(table.schema.metadata)
        record = Record(**{column: table.column(column).to_numpy() for column in DTYPES})
        name = dict(header["name"])
        whole = header["record"] == _checksum(record, name)
    except Exception as error:  # pyarrow has many for bytes that make no sense, and none of them is about the disk
        raise Damaged(f"no Parquet file of ours ({type(error).__name__})") from error
    if not whole:
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
    return unseal(header, "its header")


def _arrow(record: Record) -> dict[str, Any]:
    return {name: values.tolist() if name == "attack" else values for name, values in record.columns.items()}


def _checksum(record: Record, name: dict[str, Any]) -> str:
    parts = [json.dumps(name, sort_keys=True).encode()]
    for column, values in record.columns.items():
        data = "\n".join(values.tolist()).encode() if column == "attack" else values.tobytes()
        parts += [column.encode(), data]
    return digest(*parts)
