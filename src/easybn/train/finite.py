"""A training that has left the numbers stops, before it overwrites its last good checkpoint."""

from .observer import Moment


class Diverged(ArithmeticError):
    """A loss, a weight or a running statistic is not finite any more; the last checkpoint is from before."""


def check_finite(moment: Moment) -> None:
    for name, row in moment.tally.items():
        if not row.isfinite().all():
            raise Diverged(
                f"the loss {name!r} is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
                "try a lower lr, a warm-up or clip_norm"
            )
    if not all(tensor.isfinite().all() for tensor in (*moment.model.parameters(), *moment.model.buffers())):
        raise Diverged(
            f"a weight or statistic is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
            "try a lower lr, a warm-up or clip_norm"
        )
