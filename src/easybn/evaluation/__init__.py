"""Robustness measured: clean accuracy, and accuracy under attack with intervals and the attack's own record."""

from ..stats import Interval, accuracy_interval
from .evaluate import evaluate
from .result import Evaluation, Score

__all__ = ["Evaluation", "Interval", "Score", "accuracy_interval", "evaluate"]
