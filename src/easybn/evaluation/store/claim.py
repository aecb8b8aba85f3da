"""Who works on a chunk: one file a claim, which outlives neither the work nor, for long, a killed worker.

Claims save work, they do not protect it: results are the same whoever computes them and are written by
rename, so that two processes on one chunk (a claim may be lost where clocks disagree) do no harm.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...files import Removed, check_guards, explained
from ...json_files import read_any_json

# Which process it is, so that another one can tell whether it is gone.


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


BEAT = 5.0  # seconds between two signs of life


class Lost(Exception):
    """Another process has taken the claim for abandoned."""


@dataclass
class Claim:
    """A chunk that this process works on; from :meth:`Claims.hold`.

    Args:
        path: of its file.
        token: what makes it different from every other claim.
    """

    path: Path
    token: str
    _beaten: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        """Give a sign of life, if the last one is some seconds old: renews the file's time.

        Raises:
            Lost: the claim is another's now.
        """
        if time.monotonic() - self._beaten < BEAT:
            return
        self._beaten = time.monotonic()
        if _token(self.path) != self.token:
            raise Lost(f"{self.path} is another process's now")
        with suppress(FileNotFoundError):  # taken this very moment: seen at the next beat
            os.utime(self.path)


@dataclass(frozen=True)
class Claims:
    """The claims of a folder.

    Args:
        folder: where their files are; the clocks of machines that share it should agree to within ``patience``.
        patience: seconds without a sign of life after which a process on another machine is taken for dead. One
            on this machine is dead when it is gone, and not before.
    """

    folder: Path
    patience: float = 120.0

    @contextmanager
    def hold(self, chunk: int) -> Iterator[Claim | None]:
        """The claim on a chunk for as long as the block lasts, however it ends; None if another process has it.

        Raises:
            OSError: the claim cannot be written.
        """
        claim = Claim(self.folder / f"{chunk:05d}.json", uuid.uuid4().hex)
        if not self._take(claim):
            yield None
            return
        try:
            yield claim
        finally:
            with self._alone():
                if _token(claim.path) == claim.token:
                    claim.path.unlink()

    def holder(self, chunk: int) -> str:
        """The process that has a chunk, in words; empty if none has."""
        try:
            content = read_any_json(self.folder / f"{chunk:05d}.json")
            return f"process {int(content['pid'])} on {str(content['host']).partition(' ')[0]}"
        except (OSError, ValueError, TypeError, KeyError):
            return ""

    def _take(self, claim: Claim) -> bool:
        """Whether the claim could be made: nobody had it, or somebody who is gone."""
        text = json.dumps({**Process.this().to_dict(), "time": time.time(), "token": claim.token})
        with explained(claim.path), self._alone():
            if self._stale(claim.path):
                claim.path.unlink(missing_ok=True)
            try:
                file = claim.path.open("x")  # exclusive, for file systems that know no locks
            except FileExistsError:
                return False
            try:
                with file:
                    file.write(text)
            except BaseException:
                claim.path.unlink()
                raise
        return True

    def _stale(self, path: Path) -> bool:
        try:
            age = time.time() - path.stat().st_mtime
            content = read_any_json(path)
            gone = Process(content["host"], content["pid"], content["started"]).gone
        except FileNotFoundError:
            return False
        except (ValueError, TypeError, KeyError):
            gone = None  # being written, or by a process that was killed just then
        return age > self.patience if gone is None else gone

    def _alone(self) -> FileLock:
        """No other process judges, makes or drops a claim inside the block: what was judged is what is removed."""
        check_guards(self.folder)
        try:
            self.folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise Removed(f"{self.folder.parent} was removed meanwhile: run the same command again") from error
        return FileLock(self.folder / ".lock")


def _token(path: Path) -> str | None:
    try:
        token: str = read_any_json(path)["token"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return token
