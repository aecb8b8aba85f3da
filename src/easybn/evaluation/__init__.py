"""Robustness measured: clean accuracy, and accuracy under attack with intervals and the attack's own record."""

from ..stats import Interval, accuracy_interval
from .corruptions import CorruptionEvaluation, evaluate_corruptions
from .evaluate import evaluate
from .result import Evaluation, Score

__all__ = [
    "CorruptionEvaluation",
    "Evaluation",
    "Interval",
    "Score",
    "accuracy_interval",
    "evaluate",
    "evaluate_corruptions",
]
