"""Data sets: found, verified, and served as 8-bit images from memory or a memory-mapped file.

``load("sample")`` works at once; ``Source.from_tensors`` makes a data set of anything.
"""

from .registry import NAMES, Status, available, load
from .source import DataError, Source, Split

__all__ = ["DataError", "NAMES", "Source", "Split", "Status", "available", "load"]
