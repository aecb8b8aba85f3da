"""The state of a run by its folder, with and without the weights; and who works on it."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from easybn.runs.run import Run
from easybn.study.plan import state, study_lock
from easybn.study.state import QUIET, at_work, is_busy, read_state, record_failure

from ..conftest import TINY
from .conftest import runs


def test_the_folder_alone_says_where_a_run_stands(done, tmp_path):
    (planned,) = runs("a")
    assert state(planned, tmp_path / "none").kind == "waiting"
    found = state(planned, done)
    assert (found.kind, found.epoch, found.measured, found.clean) == ("done", 2, 1, 0.3)
    assert found.seconds == pytest.approx(Run(done).metrics[-1]["seconds"] + 2.0)
    (done / "scores.jsonl").unlink()  # an evaluation without its rows is none
    assert (state(planned, done).kind, str(state(planned, done))) == ("evaluating", "evaluation 0 of 1")
    (done / "model.safetensors").unlink()
    assert (state(planned, done).kind, str(state(planned, done))) == ("training", "epoch 2 of 2")
    other = replace(planned, experiment=replace(TINY, training=replace(TINY.training, lr=0.3)))
    assert state(other, done).kind == "failed"
    assert "training.lr: 0.05 -> 0.3" in state(other, done).error
    record_failure(done, "no\nmemory")
    assert state(planned, done).error == "no memory"
    (done / "failed.json").unlink()
    (done / "config.json").write_text("{")
    assert "config.json is damaged" in state(planned, done).error


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "kind", "told"),
    [
        ("scores.jsonl", cut, "failed", "scores.jsonl, line 1 is damaged: it is cut off"),
        ("scores.jsonl", empty, "evaluating", ""),
        ("scores.jsonl", lambda path: path.write_text('{"attack": 1}\n'), "failed", "attack must be a text"),
        ("evaluated.json", empty, "failed", "evaluated.json is damaged"),
        ("evaluated.json", cut, "failed", "evaluated.json is damaged"),
        ("evaluated.json", Path.unlink, "evaluating", ""),
        ("model.safetensors", empty, "training", ""),
        ("model.safetensors", cut, "training", ""),
        ("metrics.jsonl", cut, "failed", "metrics.jsonl, line 2 is damaged: it is cut off"),
        ("config.json", empty, "failed", "config.json is damaged"),
        ("failed.json", empty, "failed", "failed.json is damaged, so why the run failed is not known: delete it"),
        ("failed.json", lambda path: path.write_text('{"log": 1}'), "failed", "failed.json is damaged"),
    ],
)  # fmt: skip
def test_done_means_that_all_is_there_and_whole(name, damage, kind, told, done):
    (planned,) = runs("a")
    assert state(planned, done).kind == "done"
    damage(done / name)
    found = state(planned, done)
    assert found.kind == kind
    assert told in found.error
    assert bool(found.error) == bool(told)
    assert not told or str(done) in found.error


def test_a_damaged_model_without_a_checkpoint_is_a_failure(done):
    (planned,) = runs("a")
    (done / "checkpoint.pt").unlink()
    empty(done / "model.safetensors")
    found = state(planned, done)
    assert found.kind == "failed"
    assert "model.safetensors is no safetensors file, or damaged" in found.error


@pytest.mark.parametrize(
    ("name", "damage", "quick"),
    [
        ("scores.jsonl", cut, "failed"),
        ("scores.jsonl", empty, "evaluating"),
        ("evaluated.json", Path.unlink, "evaluating"),
        ("metrics.jsonl", cut, "failed"),
        ("config.json", empty, "failed"),
        ("failed.json", empty, "failed"),
        ("model.safetensors", Path.unlink, "training"),
        ("model.safetensors", cut, "done"),  # what a quick look does not see
    ],
)
def test_a_quick_look_sees_what_is_in_rows_and_notes(name, damage, quick, done):
    (planned,) = runs("a")
    assert read_state(planned.expected, done) == state(planned, done)
    damage(done / name)
    found = read_state(planned.expected, done)
    assert found.kind == quick
    if name != "model.safetensors":
        whole = state(planned, done)
        assert (found.kind, found.measured, found.clean) == (whole.kind, whole.measured, whole.clean)


def test_a_quick_look_reads_the_last_epoch_alone(done):
    (planned,) = runs("a")
    first, last = (done / "metrics.jsonl").read_text().splitlines()
    (done / "metrics.jsonl").write_text(f"damaged\n{last}\n")
    assert read_state(planned.expected, done).epoch == 2
    assert "line 1 is damaged" in state(planned, done).error
    (done / "metrics.jsonl").write_text(f"{first}\n" * 200)
    assert read_state(planned.expected, done).epoch == 1
    (done / "metrics.jsonl").write_text("")
    assert read_state(planned.expected, done).epoch == 0


def test_who_works_on_a_run(tmp_path):
    folder = tmp_path / "a"
    assert at_work(folder) is None
    with study_lock(folder):
        assert str(at_work(folder)).startswith(f"process {os.getpid()} on {socket.gethostname()}, since 2")
        assert is_busy(folder)
    assert at_work(folder) is None
    assert not is_busy(folder)


HOLD = """
import sys, time
from pathlib import Path
from easybn.locks import held
with held(Path(sys.argv[1], ".lock"), Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_works_no_more_and_one_elsewhere_is_seen_by_its_files(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert f"process {process.pid} on " in str(at_work(tmp_path))
        process.send_signal(signal.SIGKILL)
        process.wait()
    note = tmp_path / ".lock.by"
    assert note.exists()
    assert at_work(tmp_path) is None
    note.write_text("process 7 on another-machine, since 2026-11-28 10:00:00: easybn study")
    now = time.time()
    os.utime(note, (now - 900, now - 900))
    assert str(at_work(tmp_path)) == ("process 7 on another-machine, since 2026-11-28 10:00:00 (seen 15 minutes ago)")
    (tmp_path / "metrics.jsonl").touch()
    os.utime(tmp_path / "metrics.jsonl", (now - 120, now - 120))
    assert "(seen 2 minutes ago)" in str(at_work(tmp_path))
    for path in (note, tmp_path / "metrics.jsonl"):
        os.utime(path, (now - QUIET - 1, now - QUIET - 1))
    assert at_work(tmp_path) is None
