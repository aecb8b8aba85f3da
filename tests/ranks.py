"""Processes of a training by several, without a launcher and without the seconds that a start takes.

They are forked from a process that has imported everything (Python's forkserver), and get what torchrun would tell
them. Otherwise they are processes like any: they can be killed, and find each other by TCP.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch.distributed", "easybn.cli.train", "easybn.runs.run", "easybn.recipes"])


class Ranks:
    """``easybn WORDS`` in ``count`` processes, started at once.

    Args:
        words: of the command line; paths in them are absolute.
        log: a folder for what each process prints, ``RANK.log``.
    """

    def __init__(self, words: Sequence[str], log: Path, count: int = 2):
        log.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self._logs = [log / f"{rank}.log" for rank in range(count)]
        self.processes = [
            CONTEXT.Process(
                target=_run, args=(tuple(words), {**told, "RANK": str(r), "LOCAL_RANK": str(r)}, str(self._logs[r]))
            )
            for r in range(count)
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 60.0) -> list[int]:
        """Everybody's exit status; AssertionError if one still runs after ``seconds``, and all are killed."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        running = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.kill(*running)
        assert not running, f"still at work after {seconds:.0f} s: {running}\n{self.printed()}"
        return [process.exitcode for process in self.processes]

    def kill(self, *ranks: int) -> None:
        """``kill -9``."""
        for rank in ranks:
            self.processes[rank].kill()
        for rank in ranks:
            self.processes[rank].join()

    def printed(self, rank: int | None = None) -> str:
        """What one process, or all of them, have printed."""
        logs = self._logs if rank is None else [self._logs[rank]]
        return "\n".join(log.read_text() for log in logs if log.exists())


def _run(words: Sequence[str], told: dict[str, str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {**told, "COLUMNS": "200"}
    import torch

    from easybn.cli.main import main

    torch.set_num_threads(1)
    sys.exit(main(words))
