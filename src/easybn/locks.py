"""Locks on files: one process at a time, and a restarted Slurm job takes over from its own earlier instance.

The system frees a lock when its process ends, however it ends. A job that Slurm restarts (its node was lost, it was
preempted) must not wait for that: the node may have been cut off with its process still at work, holding the lock, or
the file system may keep the lock of a machine that is gone. Slurm has decided that the earlier instance counts no more,
so the later one exchanges the lock's file for a new one, locks that, and works. Everything is then as if the earlier
process had been killed at its last write:

- Whoever holds a lock writes under a guard (:func:`.files.guarding`) on the very file that it has locked, so the
  earlier process is refused at its next write, and ends.
- The guard is taken before the lock, and looked at after: nobody goes on with a lock on a file that was exchanged in
  between.
- Only an earlier instance of the same job is taken over from, as the note beside the lock names it. A note is written
  after its lock is held, and removed before it is freed, unless the file was exchanged; a killed process leaves it, and
  the next one exchanges the file for nothing.
- Where the file system keeps no locks between machines, the lock looks free: the note alone is reason to exchange it.

What remains is a write that was looked at just before the exchange and renamed just after it. It replaces one whole
file by another that the same job made, a checkpoint by a checkpoint, a row by the same row: the later instance writes
it again.
"""

import errno
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .files import Removed, check_guards, explained, guarding, read_text, replacing


class Held(OSError):
    """Another process holds a lock; the message says which, on which machine and since when, or is empty."""


@dataclass(frozen=True)
class SlurmJob:
    """The job that this process is a part of.

    Args:
        name: its number and cluster, ``12 of main``; of an element of an array ``12_3 of main``.
        restart: how often Slurm has restarted it.
    """

    name: str
    restart: int

    @classmethod
    def current(cls) -> "SlurmJob | None":
        """By the environment that Slurm sets; None outside of a job."""
        number, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
        if not number:
            return None
        name = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}" if array else number
        restart = os.environ.get("SLURM_RESTART_COUNT", "")
        return cls(f"{name} of {os.environ.get('SLURM_CLUSTER_NAME', '?')}", int(restart) if restart.isdigit() else 0)

    def __str__(self) -> str:
        return f"Slurm job {self.name}, restart {self.restart}"

    def follows(self, note: Path) -> bool:
        """Whether the note of a lock is that of an earlier instance of this job."""
        said = re.match(r"process \d+ on \S+ \(Slurm job (\S+ of \S+), restart (\d+)\)", holder(note))
        return said is not None and said[1] == self.name and int(said[2]) < self.restart


@contextmanager
def held(lock: Path, folder: Path, timeout: float = 0.0) -> Iterator[None]:
    """Hold ``lock`` inside the block; a note beside it, ``LOCK.by``, says which process does.

    Args:
        lock: a file in an existing folder.
        folder: in which nothing is written any more once the lock was taken over (:class:`.files.Removed`).
        timeout: seconds to wait for another process.

    Raises:
        Held: another process holds it.
        OSError: it cannot be made.
    """
    job, note = SlurmJob.current(), lock.with_name(f"{lock.name}.by")
    free = FileLock(lock, timeout=timeout)
    while True:
        check_guards(lock)
        if job is not None and job.follows(note):
            _exchange(lock)
        with ExitStack() as stack:
            with explained(lock):
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
                os.close(os.open(lock, flags, 0o644))
            stack.enter_context(guarding(folder, lock))
            try:
                with explained(lock):
                    free.acquire()
            except Timeout:
                if job is not None and job.follows(note):  # it had not yet written its note
                    continue
                raise Held(holder(note)) from None
            except NotImplementedError as error:
                advice = "the file system keeps no locks: use a folder on another one"
                raise OSError(errno.ENOLCK, advice, str(lock)) from error
            stack.callback(free.release)
            try:
                check_guards(lock)
            except Removed:
                continue
            stack.callback(_remove_note, lock, note)
            with suppress(OSError):
                note.unlink(missing_ok=True)  # of a killed process, or a link to another file
                with note.open("x", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(_who(job))
            yield
            return


def holder(note: Path) -> str:
    """What the note beside a lock says, in one line; "" if there is none."""
    try:
        return " ".join(read_text(note, 1000).split())
    except (OSError, ValueError):  # it has ended, or says nothing
        return ""


def _who(job: SlurmJob | None) -> str:
    since, command = time.strftime("%Y-%m-%d %H:%M:%S"), " ".join(sys.argv)[:200]
    part_of = "" if job is None else f" ({job})"
    return f"process {os.getpid()} on {socket.gethostname()}{part_of}, since {since}: {command}\n"


def _remove_note(lock: Path, note: Path) -> None:
    """Remove our note; after the lock was taken over it is another process's."""
    with suppress(OSError):
        check_guards(lock)
        note.unlink(missing_ok=True)


def _exchange(lock: Path) -> None:
    """Put a new file in the place of ``lock``; whoever has locked the old one is refused at the next write."""
    with replacing(lock):
        pass
