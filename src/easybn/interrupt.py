"""Ctrl-C and SIGTERM, taken note of rather than obeyed at once, so that a training can save first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A training was asked to stop and has saved its state.

    Args:
        signum: the signal, for an exit status of 128 + signum.
        message: where the training stands and how to go on.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class Requests:
    """The signal received, if any."""

    signum: int | None = None


@contextmanager
def deferred_signals() -> Iterator[Requests]:
    """Inside the block SIGINT and SIGTERM are only noted; a second one of them acts as usual.

    Signals can be caught in the main thread alone; elsewhere nothing is changed.
    """
    requests = Requests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(signum: int, frame: FrameType | None) -> None:
        requests.signum = signum
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
