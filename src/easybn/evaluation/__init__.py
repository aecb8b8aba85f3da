"""Robustness measured: clean accuracy, and accuracy under attack with intervals and the attack's own record."""

from .evaluate import evaluate
from .interval import Interval, accuracy_interval
from .result import Evaluation
from .score import Score

__all__ = ["Evaluation", "Interval", "Score", "accuracy_interval", "evaluate"]
