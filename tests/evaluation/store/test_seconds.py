"""The time that a store tells is that of all sessions, what was begun and gone on with included."""

import pytest

from easybn.attacks.runner import STATE_VERSION
from easybn.evaluation.record import Record
from easybn.evaluation.store import Store, work
from easybn.evaluation.store.stage_file import seconds_in, to_parquet

from .fake_job import Fake, killed, manifest

LONG = 1000.0


def slow(task):
    """Takes, by its own clock, so much longer than the rest of the test that the rest does not count."""
    task._began -= LONG
    return Fake()(task)


def stages_with_points(store):
    return sum(bool(len(store.file(chunk, stage).load()[0])) for chunk, stage in every(store))


def every(store):
    return [(chunk, stage) for chunk in range(store.manifest.chunks) for stage in range(len(store.manifest.stages))]


def test_the_stages_add_up(tmp_path):
    store = Store.open(tmp_path, manifest())
    assert store.seconds == 0
    work(store, slow)
    assert store.seconds == pytest.approx(LONG * stages_with_points(store), abs=LONG / 2)
    before = store.seconds
    work(store, slow)  # nothing to do
    assert store.seconds == before


def test_what_was_saved_of_a_stage_counts_in_the_next_session(tmp_path):
    store = Store.open(tmp_path, manifest())

    def slow_and_killed(task):
        task._began -= LONG
        return killed(task)

    with pytest.raises(ZeroDivisionError):
        work(store, slow_and_killed, save_seconds=0)
    work(store, slow)
    assert store.file(1, 4).seconds == pytest.approx(2 * LONG, abs=LONG / 2)
    assert store.seconds == pytest.approx(LONG * (stages_with_points(store) + 1), abs=LONG / 2)


@pytest.mark.parametrize(
    "saved",
    [
        {"i": 3, "sum": 0},  # before there were seconds
        {"seconds": 1.0, "state": {"i": 3, "sum": 0}},  # before there were versions
        {"version": STATE_VERSION - 1, "seconds": 1.0, "state": {"i": 3, "sum": 0}},
    ],
)
def test_a_state_of_another_version_begins_anew(saved, tmp_path):
    lines = []
    store = Store.open(tmp_path, manifest(), lines.append)
    points = store.manifest.points_of(0)
    store.file(0, 0).save_state(saved, points)
    work(store, Fake())
    assert len(lines) == 1
    assert "of another version of easybn; clean of chunk 0 begins anew" in lines[0]


def test_files_without_seconds():
    data = to_parquet(Record.joined([]), {})
    assert seconds_in(data) == 0
    assert seconds_in(to_parquet(Record.joined([]), {}, 2.5)) == 2.5
    assert seconds_in(data[:-20]) == 0
    assert seconds_in(b"") == 0
