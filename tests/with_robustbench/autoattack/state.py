from pyautoattack.state import EvaluationState

__all__ = ["EvaluationState"]
