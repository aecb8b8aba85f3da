"""Predictions on images as they are."""

import torch
from torch import Tensor

from ..attacks.prepare import Prepared, Progress, silent


@torch.no_grad()
def predict(
    model: Prepared, x: Tensor, y: Tensor | None = None, *, batch_size: int = 256, progress: Progress = silent
) -> Tensor:
    """(N,) int64 on the device of ``x``: the class of largest logit.

    Args:
        model: from :func:`easybn.attacks.prepare.prepared`.
        x: images in [0, 1], (N, ...), N at least 1, on any device.
        y: labels (int64, shape (N,)) that are checked against the number of logits, if given.
        batch_size: images a forward pass.
        progress: told after every batch, in images.

    Raises:
        ValueError: logits that are NaN or +inf (the message says for how many points), labels that do not fit.
    """
    predictions = torch.empty(len(x), dtype=torch.int64, device=x.device)
    broken = 0
    for start in range(0, len(x), batch_size):
        logits = model(model.load(x[start : start + batch_size]))
        if start == 0 and y is not None:
            check_labels(y, logits.shape[1])
        broken += int((logits.isnan() | logits.isposinf()).any(1).sum())
        predictions[start : start + batch_size] = logits.argmax(1).to(x.device)
        progress(min(start + batch_size, len(x)), len(x), "clean")
    if broken:
        raise ValueError(f"the model's logits are NaN or infinite for {broken} of {len(x)} images")
    return predictions


def correct(model: Prepared, x: Tensor, y: Tensor, *, batch_size: int = 256, progress: Progress = silent) -> Tensor:
    """(N,) bool on the device of ``x``: whether the class of largest logit is ``y``; as :func:`predict`."""
    return predict(model, x, y, batch_size=batch_size, progress=progress) == y.to(x.device)


def check_labels(y: Tensor, classes: int) -> None:
    """ValueError unless all labels are among 0 .. classes - 1."""
    low, high = (int(v) for v in y.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be in 0 .. {classes - 1} for {classes} logits, got {low} .. {high}")
