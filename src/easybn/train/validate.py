"""Loss and accuracy of every branch on the validation split: what choices are made by."""

import torch
import torch.nn.functional as F
from torch import nn

from ..attacks.calling import ModelFailed, sentence
from ..data.source import Split
from ..modes import evaluating
from ..norm.route import route


def validate(model: nn.Module, branches: tuple[str, ...], split: Split, batch_size: int) -> dict[str, dict[str, float]]:
    """{branch: {"loss": mean cross-entropy, "accuracy": share}} in eval mode; no statistic moves.

    Args:
        model: with these branches; with a single one it may be plain.
        split: at least one image.
    """
    device = next(model.parameters()).device
    with torch.inference_mode(), evaluating(model):
        if len(branches) == 1:
            return {branches[0]: _score(model, split, batch_size, device)}
        scores = {}
        for branch in branches:
            with route(model, branch):
                scores[branch] = _score(model, split, batch_size, device)
        return scores


def _score(model: nn.Module, split: Split, batch_size: int, device: torch.device) -> dict[str, float]:
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for index in torch.split(torch.arange(len(split), device=split.device), batch_size):
        x, y = (part.to(device) for part in split.batch(index))
        try:
            logits = model(x).float()
        except Exception as error:
            shape = tuple(x.shape)
            raise ModelFailed(f"the model fails in validation on images of shape {shape}: {sentence(error)}") from error
        loss = F.cross_entropy(logits, y, reduction="sum").double()
        total += torch.stack((loss, (logits.argmax(1) == y).sum().double()))
    loss_sum, right = total.tolist()
    return {"loss": loss_sum / len(split), "accuracy": right / len(split)}
