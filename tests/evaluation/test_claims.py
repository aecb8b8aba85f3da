"""Claims: one process a chunk, and no chunk that a dead process keeps."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from easybn.evaluation.store import Store, work
from easybn.evaluation.store import claim as claim_module
from easybn.evaluation.store import worker as job_module
from easybn.evaluation.store.claim import Claims, Lost, Process

from .fake_job import Fake, manifest, same

HERE = Process.this()


def plant(claims: Claims, process: Process, age: float = 0.0, chunk: int = 0) -> None:
    """The claim of another process, whose last sign of life was ``age`` seconds ago."""
    claims.folder.mkdir(exist_ok=True)
    path = claims.folder / f"{chunk:05d}.json"
    path.write_text(json.dumps({**process.to_dict(), "token": "another"}))
    os.utime(path, (time.time() - age,) * 2)


@pytest.fixture
def claims(tmp_path) -> Claims:
    return Claims(tmp_path / "claims")


@pytest.fixture
def other_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def may_have(claims: Claims) -> bool:
    with claims.hold(0) as claim:
        return claim is not None


def test_one_at_a_time(claims):
    with claims.hold(0) as mine:
        content = json.loads(mine.path.read_text())
        assert content["pid"] == os.getpid()
        assert socket.gethostname() in content["host"]
        assert not may_have(claims)
        with claims.hold(1) as other:
            assert other is not None
    assert may_have(claims)
    assert not list(claims.folder.glob("*.json"))


def test_a_living_process_keeps_its_claim_however_long_it_is_silent(claims, other_process):
    stat = Path(f"/proc/{other_process.pid}/stat")
    started = stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""
    other = replace(HERE, pid=other_process.pid, started=started)
    plant(claims, other, age=1e6)
    assert other.gone is False
    assert not may_have(claims)
    other_process.kill()
    os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)  # dead, though its parent has not looked
    if started:
        assert other.gone
        assert may_have(claims)
        plant(claims, other)
    other_process.wait()
    assert other.gone
    assert may_have(claims)


@pytest.mark.skipif(not HERE.started, reason="this system does not tell when a process started")
def test_a_number_that_another_process_was_given(claims):
    plant(claims, replace(HERE, started="1"))
    assert may_have(claims)


def test_a_process_of_another_machine_is_judged_by_its_signs_of_life(claims):
    other = replace(HERE, host="elsewhere")
    assert other.gone is None
    plant(claims, other, age=60)
    assert not may_have(claims)
    assert may_have(Claims(claims.folder, patience=30))
    plant(claims, other, age=180)
    assert may_have(claims)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_an_unreadable_claim_is_judged_by_its_age(text, claims):
    plant(claims, HERE)
    (claims.folder / "00000.json").write_text(text)
    assert not may_have(claims)
    os.utime(claims.folder / "00000.json", (0, 0))
    assert may_have(claims)


def test_only_one_takes_over(claims):
    for _ in range(10):
        plant(claims, replace(HERE, host="elsewhere"), age=1e6)
        together = threading.Barrier(8)

        def take(_, together=together):
            together.wait()
            with claims.hold(0) as claim:
                together.wait()  # nobody gives it back before all have tried
                return claim is not None

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(8))) == 1


def test_a_lost_claim_is_noticed_and_not_given_back(claims, monkeypatch):
    monkeypatch.setattr(claim_module, "BEAT", 0.0)
    with claims.hold(0) as mine:
        os.utime(mine.path, (0, 0))
        mine.beat()
        assert time.time() - mine.path.stat().st_mtime < 100
        plant(claims, HERE)
        before = mine.path.stat().st_mtime_ns
        with pytest.raises(Lost):
            mine.beat()
        assert mine.path.stat().st_mtime_ns == before
    assert (claims.folder / "00000.json").exists()


def test_signs_of_life_are_rare(claims):
    with claims.hold(0) as mine:
        os.utime(mine.path, (0, 0))
        mine.beat()
        assert mine.path.stat().st_mtime == 0


@pytest.fixture
def undisturbed(tmp_path):
    store = Store.open(tmp_path / "undisturbed", manifest())
    work(store, Fake())
    return store.record


def test_a_worker_whose_chunk_was_taken_leaves_it_and_waits(tmp_path, monkeypatch, undisturbed):
    """The other process then dies, and this one takes the chunk back."""
    monkeypatch.setattr(claim_module, "BEAT", 0.0)
    store, fake, naps = Store.open(tmp_path / "store", manifest()), Fake(), []
    claims = Claims(store.folder / "claims")

    def robbed(task):
        if not naps and (task.chunk, task.number) == (2, 3):
            plant(claims, replace(HERE, host="elsewhere"), chunk=2)
        return fake(task)

    def nap(seconds):
        assert len(store.verdicts().points) == 25 - 6, "all the others are done first"
        naps.append(seconds)
        if len(naps) == 3:
            plant(claims, replace(HERE, host="elsewhere"), age=1e6, chunk=2)

    monkeypatch.setattr(job_module.time, "sleep", nap)
    assert work(store, robbed, poll=0.5)
    assert naps == [0.5] * 3
    assert same(store.record, undisturbed)


def test_whoever_is_done_waits_for_the_others(tmp_path, monkeypatch, undisturbed):
    store, naps = Store.open(tmp_path / "store", manifest()), []
    with Claims(store.folder / "claims").hold(4) as claim:

        def nap(seconds):
            naps.append(seconds)
            if len(naps) == 2:  # the other one gets on
                for _ in job_module._Job(store, Fake(), None, 60.0).stages_of(4, claim):
                    pass

        monkeypatch.setattr(job_module.time, "sleep", nap)
        assert work(store, Fake())
        assert len(naps) == 2
    assert same(store.record, undisturbed)


def test_waiting_ends_at_the_deadline(tmp_path, monkeypatch):
    store, now, naps = Store.open(tmp_path / "store", manifest()), [1000.0], []

    def nap(seconds):
        naps.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Claims(store.folder / "claims").hold(4):
        monkeypatch.setattr(job_module.time, "sleep", nap)
        assert not work(store, Fake(), deadline=1050.0, poll=30.0)
    assert naps == [30.0, 20.0]


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_does_not_exist(shard, tmp_path):
    with pytest.raises(ValueError, match="0 <= i < n"):
        work(Store.open(tmp_path, manifest()), Fake(), shard=shard)
