"""A study by the executor of dask.distributed, on a real cluster of two worker processes on this machine."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import distributed
import pytest

from easybn import run_study
from easybn.runs.run import Run
from easybn.study.state import StudyStatus

from .test_run_study import SHORT, begun, clean, study, waits

__all__ = ["waits"]  # a fixture


@pytest.fixture
def client() -> Iterator[distributed.Client]:
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": True}
    with dask.config.set(settings):  # the first death of a worker is told to the caller
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1",
        ) as cluster, distributed.Client(cluster) as client:  # fmt: skip
            yield client


def test_dasks_workers_do_the_runs_and_one_that_is_killed_costs_none(client, tmp_path, waits):
    workers = set(client.run(os.getpid).values())
    killed: list[int] = []

    def on_status(status: StudyStatus) -> None:
        if begun(tmp_path) and not killed:
            # the worker is the parent of the process that trains
            about = Path(f"/proc/{begun(tmp_path)[0]}/stat").read_text()
            killed.append(int(about.rpartition(")")[2].split()[1]))
            assert killed[0] in workers
            os.kill(killed[0], signal.SIGKILL)
            (tmp_path / "go").touch()

    both = study(bad=replace(SHORT, data="later"), good=waits)
    executor = client.get_executor()
    states = run_study(both, tmp_path / "s", executor, device="cpu", threads=1, on_status=on_status)
    assert killed
    assert states["bad"].kind == "failed"
    assert "unknown data set 'later'" in states["bad"].error
    assert states["good"].kind == "done", states["good"].error
    assert len(begun(tmp_path)) == 2
    assert os.getpid() not in begun(tmp_path)
    assert len(Run(tmp_path / "s" / "good").metrics) == 1
    (row,) = clean(tmp_path / "s" / "good")
    assert (row["attack"], row["n"]) == ("clean", 1000)
