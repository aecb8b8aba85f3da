"""The strict idx reader."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from easybn.data import DataError
from easybn.data.idx import read_idx, write_idx

CUBE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
HEADER = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])


def test_a_plain_file_written_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "cube").write_bytes(HEADER + bytes(range(24)))
    assert np.array_equal(read_idx(tmp_path / "cube", 3), CUBE)


def test_what_is_written_is_read_and_always_the_same_bytes(tmp_path: Path) -> None:
    write_idx(tmp_path / "a.gz", CUBE)
    write_idx(tmp_path / "b.gz", CUBE)
    assert np.array_equal(read_idx(tmp_path / "a.gz", 3), CUBE)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == HEADER + bytes(range(24))
    assert (tmp_path / "a.gz").read_bytes()[4:8] == b"\0\0\0\0"  # no time in the gzip header


PACKED = gzip.compress(HEADER + bytes(range(24)), mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG", "not an idx file"),
        (bytes([0, 0, 13, 3]), "type 13"),
        (bytes([0, 0, 8, 1]) + HEADER[4:], "1 dimensions, expected 3"),
        (HEADER[:10], "within its header"),
        (HEADER + bytes(23), "24 bytes, but 23 follow"),
        (HEADER + bytes(25), "24 bytes, but more follow"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "more than 134217728 bytes"),
        (PACKED[:-12], "cut short"),
        (PACKED[:-8] + b"1234" + PACKED[-4:], "damaged"),
        (b"\x1f\x8b\x08" + b"\xff" * 60, "cut short|damaged"),
    ],
    ids=[
        "empty",
        "other",
        "type",
        "dimensions",
        "header cut",
        "too short",
        "too long",
        "absurd",
        "gzip cut",
        "gzip checksum",
        "gzip damaged",
    ],
)
def test_anything_else_is_refused_in_one_line_that_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing-here: cannot be read: No such file"):
        read_idx(tmp_path / "nothing-here", 1)
