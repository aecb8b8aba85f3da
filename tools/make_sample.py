"""Make the bundled sample from the four original Fashion-MNIST files.

    python tools/make_sample.py FOLDER [TARGET]

FOLDER holds the original files; TARGET is the package's own folder unless given. The originals are
verified first, so the decoded sample is the same wherever it is made.
"""

import gzip
import io
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from easybn.data import DataError, load
from easybn.data.registry import SAMPLE

PER_CLASS = {"train": 500, "t10k": 100}


def first_of_each_class(labels: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """The positions of the first ``count`` samples of every class, in file order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Write ``array`` in MNIST's idx format, packed by gzip, always the same bytes: without time and name."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())
    path.write_bytes(buffer.getvalue())


def make(folder: Path, target: Path) -> None:
    """Write the sample's four files to ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    source = load("fashion-mnist", folder=folder, cache=False)
    for (kind, count), split in zip(PER_CLASS.items(), (source.train, source.test), strict=True):
        labels = split.labels.numpy().astype(np.uint8)
        rows = first_of_each_class(labels, count)
        write_idx(target / f"{kind}-images-idx3-ubyte.gz", split.images[:, 0].numpy()[rows])
        write_idx(target / f"{kind}-labels-idx1-ubyte.gz", labels[rows])
    for path in sorted(target.glob("*.gz")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else SAMPLE)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
