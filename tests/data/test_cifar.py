"""CIFAR archives, in tiny ones of the same format."""

import hashlib
import io
import pickle
import struct
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from easybn.data import DataError
from easybn.data import datasets as cifar
from easybn.data.byte_pickle import load_byte_pickle
from easybn.data.datasets import CIFAR10, CIFAR100, Cifar, read_members

RNG = np.random.default_rng(0)
BATCHES = [RNG.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8) for _ in range(6)]
LABELS = [RNG.integers(0, 10, 4).tolist() for _ in range(6)]
NAMES = [f"class{number}" for number in range(10)]


def silent(what: str, done: int, total: int | None) -> None:
    pass


def python2(value: Any) -> bytes:
    """Opcodes of Python 2's protocol 2, as in the real archives: strings are byte strings."""
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(key) + python2(item) for key, item in value.items()) + b"u"
    kind = b"cnumpy\ndtype\n" + python2(b"u1") + b"K\x00K\x01\x87R" + b"(K\x03" + python2(b"|") + b"NNNJ"
    kind += b"\xff" * 4 + b"J" + b"\xff" * 4 + b"K\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2(b"b") + b"\x87R"
    shape = python2(value.shape[0]) + python2(value.shape[1]) + b"\x86"
    return start + b"(K\x01" + shape + kind + b"\x89" + python2(value.tobytes()) + b"tb"


def dump2(value: Any) -> bytes:
    return b"\x80\x02" + python2(value) + b"."


def archive(path: Path, members: dict[str, bytes]) -> str:
    """Write a tar.gz; its md5."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def binary_record(image: np.ndarray, label: bytes) -> bytes:
    """Label bytes, then red, green and blue, each row after row."""
    planes = b"".join(bytes([int(image[c, y, x]) for y in range(32) for x in range(32)]) for c in range(3))
    return label + planes


def members(kind: Cifar, python: bool) -> dict[str, bytes]:
    of = kind.python if python else kind.binary
    files = dict(zip((*of.train, of.test), zip(BATCHES, LABELS, strict=True), strict=False))
    if python:
        made = {
            name: dump2({b"data": images.reshape(4, -1), kind.label_key: labels, b"filenames": [b"x.png"] * 4})
            for name, (images, labels) in files.items()
        }
        return {of.meta: dump2({kind.names_key: [name.encode() for name in NAMES]}), **made}
    coarse = b"\x07" * (kind.label_bytes - 1)
    made = {
        name: b"".join(binary_record(image, coarse + bytes([label])) for image, label in zip(*file, strict=True))
        for name, file in files.items()
    }
    return {of.meta: ("\n".join(NAMES) + "\n\n").encode(), **made}


def with_md5(kind: Cifar, python: bool, md5: str) -> Cifar:
    return (
        replace(kind, python=replace(kind.python, md5=md5))
        if python
        else replace(kind, binary=replace(kind.binary, md5=md5))
    )


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_both_versions_of_both_sets_give_images_labels_and_names(tmp_path: Path, kind: Cifar, python: bool) -> None:
    of = kind.python if python else kind.binary
    md5 = archive(tmp_path / of.file, members(kind, python))
    source = cifar.cifar(with_md5(kind, python, md5), tmp_path, progress=silent)
    files = len(of.train)
    assert source.name == kind.name
    assert source.classes == tuple(NAMES)
    assert torch.equal(source.train.images, torch.from_numpy(np.concatenate(BATCHES[:files])))
    assert source.train.labels.tolist() == [label for labels in LABELS[:files] for label in labels]
    assert torch.equal(source.test.images, torch.from_numpy(BATCHES[files]))
    assert source.test.labels.tolist() == LABELS[files]


def test_the_handmade_pickle_is_what_pickle_itself_reads() -> None:
    value = {b"data": BATCHES[0].reshape(4, -1), b"labels": LABELS[0], b"filenames": [b"x.png"]}
    with warnings.catch_warnings(action="ignore"):  # numpy's about its old module name
        theirs = pickle.loads(dump2(value), encoding="bytes")
    for read in (theirs, load_byte_pickle(dump2(value), "batch"), load_byte_pickle(pickle.dumps(value, 4), "batch")):
        assert np.array_equal(read[b"data"], value[b"data"])
        assert read[b"data"].dtype == np.uint8
        assert read[b"labels"] == LABELS[0]
        assert read[b"filenames"] == [b"x.png"]


def test_an_archive_of_another_md5_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / CIFAR10.binary.file, members(CIFAR10, False))
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("the archive was opened"))
    with pytest.raises(
        DataError, match=r"cifar-10-binary.tar.gz: is not the official archive \(md5 \w{32}, expected c32a"
    ):
        cifar.cifar(CIFAR10, tmp_path, progress=silent)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_pickle_is_run(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({b"data": _Bomb(tmp_path / "touched")}, protocol=protocol)
    with pytest.raises(
        DataError, match=r"batch: cannot be read as a pickle of plain values: it asks for .*not allowed"
    ):
        load_byte_pickle(content, "batch")
    assert not (tmp_path / "touched").exists()
    pickle.loads(content)
    assert (tmp_path / "touched").exists()  # the pickle would have run


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}",
        dump2([1]),
        pickle.dumps({b"data": np.zeros((2, 2), np.float32)}, protocol=4),
        pickle.dumps({b"data": np.array([object], dtype=object)}, protocol=4),
        dump2({b"data": np.zeros((2, 2), np.uint8)}).replace(b"J\x02\x00\x00\x00", b"J\x03\x00\x00\x00", 1),
        b"cos\nsystem\n(S'true'\ntR.",
    ],
    ids=["empty", "cut", "no dictionary", "floats", "objects", "shape", "call"],
)
def test_damaged_and_other_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^batch: "):
        load_byte_pickle(content, "batch")


def test_members_are_read_by_name_and_nothing_is_extracted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "archive.tar.gz"
    archive(path, {"../outside": b"1", "/absolute": b"2", "wanted": b"3"})
    monkeypatch.chdir(tmp_path)
    assert read_members(path, ["wanted"]) == {"wanted": b"3"}
    assert [file.name for file in tmp_path.iterdir()] == ["archive.tar.gz"]
    assert not (tmp_path.parent / "outside").exists()


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar.gz"
    archive(path, {"other": b"1"})
    with pytest.raises(DataError, match="has no wanted: not the original archive"):
        read_members(path, ["wanted"])
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("wanted")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(DataError, match="has no wanted"):
        read_members(path, ["wanted"])
    archive(path, {"wanted": bytes(RNG.integers(0, 256, 5000, dtype=np.uint8))})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="is no readable"):
        read_members(path, ["wanted"])


@pytest.mark.parametrize("python", [False, True])
def test_a_batch_of_the_wrong_size_is_named(tmp_path: Path, python: bool) -> None:
    content = members(CIFAR10, python)
    of = CIFAR10.python if python else CIFAR10.binary
    content[of.test] = dump2({b"data": BATCHES[0].reshape(4, -1), b"labels": [1]}) if python else b"\0" * 3000
    kind = with_md5(CIFAR10, python, archive(tmp_path / of.file, content))
    with pytest.raises(DataError, match=of.test):
        cifar.cifar(kind, tmp_path, progress=silent)


def test_a_download_is_verified_and_kept(tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = with_md5(CIFAR10, False, archive(tmp_path / CIFAR10.binary.file, members(CIFAR10, False)))
    monkeypatch.setattr(cifar, "ADDRESS", f"{tmp_path.as_uri()}/")
    assert len(cifar.cifar(kind, download=True, progress=silent).train) == 20
    assert (cache_home / "easybn" / "cifar10" / CIFAR10.binary.file).is_file()
    with pytest.raises(DataError, match=r"could not download .*md5 \w{32}, expected c32a"):
        cifar.cifar(CIFAR10, tmp_path / "empty", download=True, progress=silent)
    assert list((tmp_path / "empty").iterdir()) == []


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"CIFAR-100 was not found .*cifar-100-binary.tar.gz \(or cifar-100-python"):
        cifar.cifar(CIFAR100, tmp_path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        # what a pickle of a few bytes may ask for: a bytearray of 2^62 bytes, a table of 2^31 memos
        (b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"x.", "pickle of plain values"),
        (b"\x80\x05\x96" + (2).to_bytes(8, "little") + b"xx.", "BYTEARRAY8, which is none of the plain values"),
        (b"\x80\x02}r" + (2**31).to_bytes(4, "little") + b".", "its memo 2147483648 is beyond its size"),
    ],
)
def test_a_small_pickle_asks_for_no_more_memory_than_it_has_bytes(data: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_byte_pickle(data, "batch")
