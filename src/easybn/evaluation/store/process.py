"""Which process it is, so that another one can tell whether it is gone."""

import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Process:
    """A process among all those that may share a folder.

    Args:
        host: the machine, since which start, and which of its lists of processes (a container has its own).
        pid: its number there.
        started: when it started, in a unit of the machine's own; "" where that cannot be known.
    """

    host: str
    pid: int
    started: str = ""

    @classmethod
    def this(cls) -> "Process":
        """The process that asks."""
        return cls(_host(), os.getpid(), _started(os.getpid()) or "")

    @property
    def gone(self) -> bool | None:
        """Whether it has ended; None if that cannot be seen from here."""
        if self.host != _host() or os.name != "posix":
            return None
        try:
            os.kill(self.pid, 0)  # sends nothing
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it is there, and somebody else's
        started = _started(self.pid)
        return started is not None and started != self.started  # another one that was given the same number

    def to_dict(self) -> dict[str, Any]:
        """The fields, as values that JSON knows."""
        return asdict(self)


def _host() -> str:
    words = [socket.gethostname()]
    with suppress(OSError):  # not Linux
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(words)


def _started(pid: int) -> str | None:
    """The start of a process in clock ticks after the machine's; "" if it has died; None where there is no /proc."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return "" if state in "ZX" else rest[18]  # a killed process stays as Z until its parent has looked
