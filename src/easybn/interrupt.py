"""Deferred Ctrl-C and SIGTERM, so that a training can save before it stops; processes that end with their parent."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CHILD = "EASYBN_STUDY"
"""Environment variable of the processes that a study or a job starts: their standard input ends when that ends."""


class Interrupted(Exception):
    """A training was asked to stop, and has saved its state.

    Args:
        signum: the signal; the exit status is 128 + signum.
        message: how far the training is, and how to continue.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class Requests:
    """The signal that was received, if any."""

    signum: int | None = None


@contextmanager
def deferred_signals() -> Iterator[Requests]:
    """Inside the block, a first SIGINT or SIGTERM is only noted; a second one acts as usual.

    Python delivers signals to the main thread only; in other threads nothing changes.
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


def stop_with_the_parent() -> None:
    """Stop cleanly on SIGTERM, or when the process that started this one has ended."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def wait() -> None:
        os.read(0, 1)  # a pipe that ends when the parent does
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait, daemon=True).start()
