"""Data sets: found, verified, and served as 8-bit images from memory or a memory-mapped file.

``load("sample")`` works at once; ``Source.from_tensors`` and ``Source.from_datasets`` make a data set of yours.
"""

from .registry import NAMES, Status, available, licence, load
from .source import Source
from .split import DataError, Split

__all__ = ["DataError", "NAMES", "Source", "Split", "Status", "available", "licence", "load"]
