"""The census of easy examples, as an observer of :func:`easybn.fit`."""

from collections.abc import Callable
from typing import Any

from ...analysis.answers import Answers, answers
from ...data import Split
from ...perturb.ball import Linf
from ...perturb.pgd import PGD
from ...train.observer import Moment, Observer

Seen = Callable[[int, Answers, Answers], None]
"""Is told of each epoch: its number, from 1, and the answers on the images and on their easy copies."""


class EasyCensus(Observer):
    """Confidence and correctness of every training image after each of the first epochs, then the end.

    After an epoch every image is passed once more, as it is: in eval mode, through the deployed branch, without
    augmentation, in float32, by the weights as they train (not their moving average). That is exact: the answers of
    one network. By count of passes it costs a third of an epoch of plain training, and the easy copies a whole one
    (two forward passes, and a backward pass to the images alone). The logits of the training steps would cost nothing,
    but are those of a network that changes from step to step, in train mode, on augmented images.

    Args:
        split: the training images.
        seen: told of each epoch, before the checkpoint that follows it is written.
        epochs: how many to watch.
        copies: makes the easy copies: one step of the easy goal.
        stop: end the training after them. Its schedule is that of the whole training all the same.
    """

    def __init__(
        self, split: Split, seen: Seen, epochs: int = 1, copies: PGD = PGD(Linf(1 / 255), steps=1), stop: bool = True
    ):
        self._split, self._seen, self._epochs, self._copies, self._stop = split, seen, epochs, copies, stop

    def start(self, moment: Moment) -> None:
        self._end(moment)  # a checkpoint of this very end

    def epoch(self, moment: Moment, row: dict[str, Any]) -> None:
        if row["epoch"] <= self._epochs:
            own, copies = answers(moment.model, self._split, self._copies)
            assert copies is not None
            self._seen(row["epoch"], own, copies)
        self._end(moment)

    def _end(self, moment: Moment) -> None:
        if self._stop and moment.step >= self._epochs * moment.steps_per_epoch:
            moment.stop = True
