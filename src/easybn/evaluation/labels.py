"""Labels that fit a model."""

from torch import Tensor


def check_labels(y: Tensor, classes: int) -> None:
    """ValueError unless all labels (int64, (N,), N at least 1) are among 0 .. classes - 1."""
    low, high = (int(v) for v in y.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in 0 .. {classes - 1} for {classes} logits, got {low} .. {high}")
