"""Make the bundled sample from the four original Fashion-MNIST files.

    python tools/make_sample.py FOLDER [TARGET]

FOLDER holds the original files; TARGET is the package's own folder unless given. The originals are
verified first, so the decoded sample is the same wherever it is made.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from easybn.data.datasets import FOLDER, file_of, read_verified
from easybn.data.idx import write_idx
from easybn.data.source import DataError

PER_CLASS = {"train": 500, "t10k": 100}


def original(folder: Path, stem: str) -> NDArray[np.uint8]:
    """The array called ``stem`` of the original data set in ``folder``."""
    path = file_of(folder, stem)
    if path is None:
        raise DataError(f"{folder} has no {stem}.gz: put the original there")
    return read_verified(path, stem)


def first_of_each_class(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """The positions of the first ``count`` samples of every class, in file order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def make(folder: Path, target: Path) -> None:
    """Write the sample's four files to ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for kind, count in PER_CLASS.items():
        images, labels = (original(folder, f"{kind}-{values}-ubyte") for values in ("images-idx3", "labels-idx1"))
        rows = first_of_each_class(labels, count)
        write_idx(target / f"{kind}-images-idx3-ubyte.gz", images[rows])
        write_idx(target / f"{kind}-labels-idx1-ubyte.gz", labels[rows])
    for path in sorted(target.glob("*.gz")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else FOLDER)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
