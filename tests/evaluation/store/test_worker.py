"""Locks on chunks: one process per chunk, and whoever has none waits for the others."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from easybn.evaluation.store import Store, work
from easybn.evaluation.store import worker as worker_module
from easybn.evaluation.store.worker import chunk_lock
from easybn.files import Removed

from .fake_job import Fake, manifest, same


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "store", manifest())


@pytest.fixture
def undisturbed(tmp_path):
    store = Store.open(tmp_path / "undisturbed", manifest())
    work(store, Fake())
    return store.record


def is_free(store: Store, chunk: int = 0) -> bool:
    with chunk_lock(store, chunk) as free:
        return free


def test_one_at_a_time(store):
    with chunk_lock(store, 0) as mine:
        assert mine
        assert not is_free(store)
        assert is_free(store, 1)
    assert is_free(store)


def test_a_lock_is_given_back_after_an_error(store):
    with pytest.raises(ZeroDivisionError), chunk_lock(store, 0):
        raise ZeroDivisionError
    assert is_free(store)


def test_a_lock_file_that_a_killed_process_left_means_nothing(store):
    (store.folder / "locks").mkdir()
    (store.folder / "locks" / "00000.lock").write_text("process 1")
    assert is_free(store)


def test_of_many_only_one_has_it(store):
    for _ in range(10):
        together = threading.Barrier(8)

        def take(_, together=together):
            together.wait()
            with chunk_lock(store, 0) as free:
                together.wait()  # nobody gives it back before all have tried
                return free

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(8))) == 1


def test_no_lock_is_made_in_a_folder_that_was_removed(store, tmp_path):
    with store.at_work():
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        with pytest.raises(Removed, match="store was removed"):
            is_free(store)
    assert not (tmp_path / "store").exists()


def test_whoever_is_done_waits_for_the_others(store, monkeypatch, undisturbed):
    naps = []
    with chunk_lock(store, 4):

        def nap(seconds):
            assert len(store.verdicts().points) == 25 - 1, "all other chunks are done first"
            naps.append(seconds)
            if len(naps) == 2:  # the other one gets on
                for _ in worker_module._Worker(store, Fake(), None, 60.0).stages_of(4):
                    pass

        monkeypatch.setattr(worker_module.time, "sleep", nap)  # type: ignore[attr-defined]
        assert work(store, Fake(), poll=0.5)
    assert naps == [0.5] * 2
    assert same(store.record, undisturbed)


def test_waiting_ends_at_the_deadline(store, monkeypatch):
    now, naps = [1000.0], []

    def nap(seconds):
        naps.append(seconds)
        now[0] += seconds

    with chunk_lock(store, 4):
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        monkeypatch.setattr(worker_module.time, "sleep", nap)  # type: ignore[attr-defined]
        assert not work(store, Fake(), deadline=1050.0, poll=30.0)
    assert naps == [30.0, 20.0]


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_does_not_exist(shard, store):
    with pytest.raises(ValueError, match="0 <= i < n"):
        work(store, Fake(), shard=shard)
