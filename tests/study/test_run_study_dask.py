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


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": True}
    with dask.config.set(settings):  # the first death of a worker is told to the caller
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1",
        ) as cluster, distributed.Client(cluster) as client:  # fmt: skip
            yield client


def test_dasks_executor_does_what_is_done_here(client, tmp_path, waits):
    (tmp_path / "go").touch()
    both = study(bad=replace(SHORT, data="later"), good=waits)
    states = run_study(both, tmp_path / "dask", client.get_executor(), device="cpu", threads=1)
    assert [states["bad"].kind, states["good"].kind] == ["failed", "done"]
    assert "unknown data set 'later'" in states["bad"].error
    assert os.getpid() not in begun(tmp_path)
    assert run_study(study(good=waits), tmp_path / "here", device="cpu")["good"].kind == "done"
    one, other = (tmp_path / name / "good" for name in ("dask", "here"))
    assert clean(one) == clean(other)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_worker_that_is_killed_costs_no_run(client, tmp_path, waits):
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

    states = run_study(study(a=waits), tmp_path / "s", client.get_executor(), device="cpu", on_status=on_status)
    assert killed
    assert states["a"].kind == "done", states["a"].error
    assert len(begun(tmp_path)) == 2
    assert len(Run(tmp_path / "s" / "a").metrics) == 1
