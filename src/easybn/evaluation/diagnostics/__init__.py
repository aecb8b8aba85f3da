"""The diagnosis of a robustness evaluation: what would make its figures misleading, a finding a line."""

from .finding import Finding
from .run import CHECKS, diagnose

__all__ = ["CHECKS", "Finding", "diagnose"]
