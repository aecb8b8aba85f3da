"""What is published of CIFAR-10 and CIFAR-100: archives, their md5, their members, and how they tell labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .places import Wanted, is_file


@dataclass(frozen=True)
class Archive:
    """One of the published archives: its name, its md5, and what its members are called."""

    file: str
    md5: str
    meta: str
    train: tuple[str, ...]
    test: str


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: its name, its archives, and how they tell labels and class names."""

    name: str
    title: str
    binary: Archive
    python: Archive
    label_bytes: int
    label_key: bytes
    names_key: bytes

    def wanted(self) -> Wanted:
        """What to look for: either archive."""

        def here(folder: Path) -> tuple[Path, ...] | None:
            found = [folder / archive.file for archive in (self.binary, self.python) if is_file(folder / archive.file)]
            return (found[0],) if found else None

        return Wanted(self.title, (f"{self.binary.file} (or {self.python.file})",), (self.name, self.title), here)

    def archive(self, path: Path) -> Archive:
        return self.python if path.name == self.python.file else self.binary


def _below(folder: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


CIFAR10 = Cifar(
    "cifar10",
    "CIFAR-10",
    Archive(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-bin/batches.meta.txt",
        _below("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)]),
        "cifar-10-batches-bin/test_batch.bin",
    ),
    Archive(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3d95e74349a",
        "cifar-10-batches-py/batches.meta",
        _below("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)]),
        "cifar-10-batches-py/test_batch",
    ),
    label_bytes=1,
    label_key=b"labels",
    names_key=b"label_names",
)

CIFAR100 = Cifar(
    "cifar100",
    "CIFAR-100",
    Archive(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-binary/fine_label_names.txt",
        ("cifar-100-binary/train.bin",),
        "cifar-100-binary/test.bin",
    ),
    Archive(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python/meta",
        ("cifar-100-python/train",),
        "cifar-100-python/test",
    ),
    label_bytes=2,
    label_key=b"fine_labels",
    names_key=b"fine_label_names",
)
