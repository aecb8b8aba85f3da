"""The diagnosis of a robustness evaluation: what would make its figures misleading, a finding a line."""

from .run import CHECKS, diagnose
from .subject import Finding

__all__ = ["CHECKS", "Finding", "diagnose"]
