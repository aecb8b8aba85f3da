"""Runs of a study one after the other, in this process; the processes of the local executor do one run so."""

import os
import signal
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from ...escapes import say
from ...train.interrupt import Interrupted
from ..run import BusyError
from .execute import BUSY, CHILD
from .plan import Planned
from .record import forgive
from .state import state
from .work import work


def in_turn(
    runs: Sequence[Planned],
    out: Path,
    threads: int | None = None,
    retry: bool = False,
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Do what is missing of each run, and say how it ended.

    Args:
        runs: what to do, in this order.
        out: folder of the runs' folders.
        threads: of torch; by default as they are.
        retry: try again what failed before.
        device, checkpoint_seconds: see :func:`.work.work`.

    Raises:
        SystemExit: with 1 if a run failed, else with ``BUSY`` if another process is at one; after all of them.
        Interrupted: it was asked to stop; what is done is saved.
    """
    if os.environ.get(CHILD):
        _stop_with_the_parent()
    if threads is not None:
        torch.set_num_threads(threads)
    busy = failed = False
    for planned in runs:
        folder = out / planned.name
        if retry:
            forgive(folder)
        found = state(planned, folder)
        if found.kind == "done":
            continue
        try:
            if found.kind == "failed":
                raise ValueError(found.error)
            work(planned, folder, device, checkpoint_seconds)
            say(f"done: {folder}")
        except Interrupted:
            raise
        except BusyError as error:
            busy = True
            say(f"busy: {error}")
        except (ValueError, OSError, ArithmeticError) as error:
            failed = True
            say(f"failed: {planned.name}: {' '.join(str(error).split())}")
        except Exception:  # a mistake of ours
            failed = True
            say(traceback.format_exc(), error=True)
    if failed or busy:
        raise SystemExit(1 if failed else BUSY)


def _stop_with_the_parent() -> None:
    """Stop in good order when asked to, or when the study that started this process is gone."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def wait() -> None:
        os.read(0, 1)  # a pipe that ends when the parent does
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=wait, daemon=True).start()
