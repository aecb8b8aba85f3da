"""Tiny data sets in the formats of the published ones, their checksums put in the place of the true ones."""

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision

from easybn.data import registry
from easybn.data.datasets import Archive, MedMnist, Mnist, Svhn

PUBLISHED = registry.PUBLISHED
SIZES = {"train": 12, "test": 5}


@dataclass
class Made:
    """What was written: images (N, C, H, W) and labels by split, and the names of the classes."""

    images: dict[str, np.ndarray]
    labels: dict[str, list[int]]
    classes: list[str]


def make(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Write the files of the data set called ``name`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = PUBLISHED[name]
    draw = np.random.default_rng(7)
    images = {split: draw.integers(0, 256, (n, *data.shape), np.uint8) for split, n in SIZES.items()}
    labels = {split: draw.integers(0, data.classes, n).tolist() for split, n in SIZES.items()}
    made = Made(images, labels, [f"class{number}" for number in range(data.classes)])
    write: Any = {Mnist: _mnist, Archive: _archive, Svhn: _svhn, MedMnist: _medmnist}[type(data)]
    write(data, folder, made, monkeypatch)
    return made


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def _mnist(data: Mnist, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(torchvision.datasets, data.library)
    made.classes = list(kind.classes)
    contents = [idx(values) for split in SIZES for values in (made.images[split][:, 0], np.array(made.labels[split]))]
    packed = [gzip.compress(content) for content in contents]
    for name, content in zip(data.files, packed, strict=True):
        (folder / name).write_bytes(content)
    monkeypatch.setattr(kind, "resources", list(zip(data.files, map(md5, packed), strict=True)))
    if data.contents:
        digests = {name: hashlib.sha256(c).hexdigest() for name, c in zip(data.files, contents, strict=True)}
        monkeypatch.setitem(PUBLISHED, data.name, replace(data, contents=digests))


def python2(value: Any) -> bytes:
    """Opcodes of Python 2's protocol 2, as in the real CIFAR archives: strings are byte strings."""
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


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _archive(data: Archive, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = getattr(torchvision.datasets, data.library)
    members = _stl10(made) if data.name == "stl10" else _cifar(kind, made)
    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(kind, listed, [[file, md5(members[file])] for file, _ in getattr(kind, listed)])
    if hasattr(kind, "meta"):
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(members[kind.meta["filename"]])})
    content = tar({f"{kind.base_folder}/{name}": member for name, member in members.items()})
    monkeypatch.setattr(kind, "tgz_md5", md5(content))
    (folder / data.files[0]).write_bytes(content)


def _cifar(kind: Any, made: Made) -> dict[str, bytes]:
    key = b"labels" if kind is torchvision.datasets.CIFAR10 else b"fine_labels"
    members = {kind.meta["filename"]: dump2({kind.meta["key"].encode(): [name.encode() for name in made.classes]})}
    for split, listed in (("train", kind.train_list), ("test", kind.test_list)):
        parts = np.array_split(np.arange(SIZES[split]), len(listed))
        for (file, _), rows in zip(listed, parts, strict=True):
            labels = [made.labels[split][row] for row in rows]
            pixels = made.images[split][rows].reshape(len(rows), -1)
            members[file] = dump2({b"data": pixels, key: labels, b"filenames": [b"x.png"] * len(rows)})
    return members


def _stl10(made: Made) -> dict[str, bytes]:
    members = {"class_names.txt": "\n".join(made.classes).encode() + b"\n", "unlabeled_X.bin": b""}
    for split in SIZES:  # column after column, and labels from 1 on
        members[f"{split}_X.bin"] = made.images[split].transpose(0, 1, 3, 2).tobytes()
        members[f"{split}_y.bin"] = bytes(label + 1 for label in made.labels[split])
    return members


def _svhn(data: Svhn, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.classes = [str(digit) for digit in range(10)]
    made.labels["train"][0] = 0  # which the files call 10
    splits = dict(torchvision.datasets.SVHN.split_list)
    for file, split in zip(data.files, SIZES, strict=True):
        labels = np.array([[label or 10] for label in made.labels[split]], np.uint8)
        scipy.io.savemat(folder / file, {"X": made.images[split].transpose(2, 3, 1, 0), "y": labels})
        splits[split] = [splits[split][0], file, md5((folder / file).read_bytes())]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)


def _medmnist(data: MedMnist, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the file a stand-in for the package, which has INFO and a class per set, as medmnist 3.0 does."""
    arrays = {}
    for split in SIZES:
        pixels = made.images[split]
        arrays[f"{split}_images"] = pixels[:, 0] if data.shape[0] == 1 else pixels.transpose(0, 2, 3, 1)
        arrays[f"{split}_labels"] = np.array(made.labels[split], np.uint8)[:, None]
    np.savez(folder / data.files[0], **arrays)

    class Stand:
        def __init__(self, split: str, root: str) -> None:
            with np.load(Path(root) / data.files[0]) as content:
                self.imgs, self.labels = content[f"{split}_images"], content[f"{split}_labels"]

    about = {
        "python_class": data.title,
        "url": "https://nowhere.invalid/x.npz",
        "MD5": md5((folder / data.files[0]).read_bytes()),
        "label": {str(number): name for number, name in enumerate(made.classes)},
    }
    package: Any = types.ModuleType("medmnist")
    package.INFO = {data.library: about}
    setattr(package, data.title, Stand)
    monkeypatch.setitem(sys.modules, "medmnist", package)
