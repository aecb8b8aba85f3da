"""A training that has left the numbers stops, before it overwrites its last good checkpoint."""

from .observer import Moment


class Diverged(ArithmeticError):
    """A loss or a weight is not finite any more; the last checkpoint is from before."""


def check_finite(moment: Moment) -> None:
    for name, row in moment.tally.items():
        if not row.isfinite().all():
            raise Diverged(
                f"the loss {name!r} is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
                "try a lower lr, a warm-up or clip_norm"
            )
    if not all(parameter.isfinite().all() for parameter in moment.model.parameters()):
        raise Diverged(
            f"a weight is not finite any more at step {moment.step} (learning rate {moment.lr:g}): "
            "try a lower lr, a warm-up or clip_norm"
        )
