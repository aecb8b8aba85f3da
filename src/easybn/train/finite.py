"""A training that has left the numbers stops, before it overwrites its last good checkpoint."""

import torch
from torch import Tensor

from .observer import Moment


class Diverged(ArithmeticError):
    """A loss, a weight or a running statistic is not finite any more; the last checkpoint is from before."""


def check_finite(moment: Moment) -> None:
    if _all_finite([*moment.tally.values(), *moment.model.parameters(), *moment.model.buffers()]):
        return
    for name, row in moment.tally.items():
        if not row.isfinite().all():
            raise Diverged(
                f"the loss {name!r} is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
                "try a lower lr, a warm-up or clip_norm"
            )
    raise Diverged(
        f"a weight or statistic is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
        "try a lower lr, a warm-up or clip_norm"
    )


def _all_finite(tensors: list[Tensor]) -> bool:
    """Waits for each device once, however many tensors there are."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor.detach().isfinite().all())
    return all(bool(torch.stack(each).all()) for each in by_device.values())
