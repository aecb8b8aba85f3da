"""Bars of long work: one per name, begun again where the work is, and rich imported only where something is drawn."""

import subprocess
import sys

import pytest

from easybn.progress import ProgressBars, progress_display, shown, silent


@pytest.fixture
def display():
    display = progress_display()
    display.disable = True
    return display


def test_a_bar_per_name_with_the_details_beside_it(display):
    bars = ProgressBars(display, "ebn")
    bars(0, 10, "fab-t linf 8/255, 10 of 10 stand")
    bars(4, 10, "fab-t linf 8/255, 7 of 10 stand, chunk 1 of 2")
    bars(1, 0, "train.zip")
    fab, download = display.tasks
    assert (fab.description, fab.completed, fab.total) == ("ebn: fab-t linf 8/255", 4, 10)
    assert fab.fields["info"] == "7 of 10 stand, chunk 1 of 2"
    assert (download.description, download.completed, download.total) == ("ebn: train.zip", 1, None)


def test_work_that_begins_again_is_timed_again(display):
    bars = ProgressBars(display)
    bars(5, 10, "square")
    (task,) = display.tasks
    display.start_task(task.id)
    before = task.start_time
    bars(6, 10, "square")
    assert task.start_time == before
    bars(1, 10, "square, chunk 2 of 2")
    assert task.start_time is not None
    assert task.start_time > before
    assert task.completed == 1


def test_all_calls_on_one_bar(display):
    bars = ProgressBars(display, "ebn", "summary")
    bars(1, 2, "predictions")
    bars(0, 6, "gallery, of six images")
    (task,) = display.tasks
    assert (task.description, task.completed, task.total) == ("ebn: summary", 0, 6)
    assert task.fields["info"] == "gallery, of six images"


def test_a_given_callback_is_used_as_it_is():
    calls = []
    with shown(lambda *call: calls.append(call)) as on_progress:
        on_progress(1, 2, "x")
    assert calls == [(1, 2, "x")]
    assert silent(1, 2, "x") is None


def test_rich_is_imported_only_to_draw():
    code = (
        "import sys, easybn.progress as p; p.silent(1, 2, 'x'); assert 'rich' not in sys.modules; "
        "p.progress_display(); assert 'rich' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
