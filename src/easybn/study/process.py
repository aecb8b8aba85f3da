"""The process of one run, whose output goes to the run's log; nothing here needs torch, so that workers stay small."""

import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from ..files import check_regular, explained
from ..interrupt import CHILD
from .state import LOG

STOPPED = 130  # exit status of what was not wanted any more
LOOK_SECONDS = 1.0  # between two looks whether it is


class Process:
    """A :class:`.execute.Job`: a process of this machine, whose output goes to the run's log.

    Args:
        command: its command line.
        folder: of the run.
        message: written to its standard input, which stays open until this process ends.
    """

    def __init__(self, command: list[str], folder: Path, message: bytes = b""):
        with explained(folder / LOG), ExitStack() as stack:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / LOG).is_symlink():  # of a folder made by somebody else: another file would be appended to
                raise ValueError(f"{folder / LOG} is a link: remove it")
            if (folder / LOG).exists():
                check_regular(folder / LOG)
            log = stack.enter_context((folder / LOG).open("ab"))
            log.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(command[1:])}\n".encode())
            log.flush()
            # in its own session, so that Ctrl-C reaches it once, through this process
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, CHILD: "1"}, start_new_session=True,
            )  # fmt: skip
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(message)
            self._child.stdin.flush()
        except BrokenPipeError:  # it has ended already, and its status says how
            pass

    def poll(self) -> int | None:
        return self._child.poll()

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None if it has none after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self._child.wait(seconds)
        return None

    def stop(self) -> None:
        self._child.terminate()

    def close(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
        with self._child:  # closes the pipe, and waits
            pass


def do_in_process(message: bytes, folder: str, wanted: str, token: str) -> int:
    """Do one run in a process of its own; this is what an executor's worker does.

    Args:
        message: what to do, see :mod:`.run_study`.
        folder: of the run.
        wanted: a folder that is there as long as the run is wanted; then its process saves and stops.
        token: differs from call to call.

    Returns:
        The exit status, see :func:`.execute.do`.
    """
    if not Path(wanted).exists():
        return STOPPED
    options = ["-P"] if Path(__file__).parents[2] != Path.cwd() else []  # no modules from the working folder
    process = Process([sys.executable, *options, "-m", "easybn.study"], Path(folder), message)
    try:
        asked = False
        while (status := process.wait(LOOK_SECONDS)) is None:
            if not asked and not Path(wanted).exists():
                process.stop()  # once: at a second signal it would not save any more
                asked = True
        return status
    except BaseException:  # Ctrl-C reaches the workers of a pool too
        process.stop()
        process.wait(60.0)
        raise
    finally:
        process.close()
