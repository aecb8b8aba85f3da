"""A study as a user runs it: in processes of its own, stopped, killed, shared, taken up again."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from easybn import data
from easybn.cli import study_file
from easybn.runs import run as run_module
from easybn.runs.run import Run, train
from easybn.study.execute import train_and_evaluate
from easybn.train.checkpoint import load

from .conftest import start

TIMING = ("images_per_second", "seconds")
TINY = """
name: tiny
runs:
  - {name: vanilla, train_images: 160, epochs: 2, batch_size: 16}
  - {name: ebn, train_images: 160, epochs: 2, batch_size: 16, recipe: EBN, recipe.attack.ball.eps: 8/255}
evaluate:
  - {points: 8, batch_size: 8, steps: 2, eps: 8/255}
  - {attacks: [apgd-ce], norm: linf, eps: 8/255, points: 8, chunk: 4, no_diagnosis: true}
"""
ONE = "runs: [{name: a, train_images: 80, epochs: 1, batch_size: 20}]\n"
WORDS = ("study", "tiny.yaml", "--device", "cpu", "--threads", "1")


def files(folder: str) -> dict[str, tuple[bytes, int]]:
    """Contents and times of all files but for logs and locks."""
    found = [path for path in Path(folder).rglob("*") if path.is_file() and not path.name.endswith((".log", "lock"))]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def rows(folder: Path) -> dict[str, list]:
    """All that was measured in a run's folder, but for the time it took."""
    run = Run(folder)
    return {
        name: [{key: value for key, value in row.items() if key not in TIMING} for row in found]
        for name, found in (("metrics", run.metrics), ("scores", run.scores))
    }


def assert_same(one: str, other: str, names: tuple[str, ...] = ("vanilla-0", "ebn-0")) -> None:
    for name in names:
        a, b = Path(one, name), Path(other, name)
        assert rows(a) == rows(b)
        assert len(rows(a)["scores"]) == 4  # clean, PGD under two protocols, APGD
        assert len({json.dumps(row) for row in rows(a)["scores"]}) == 4
        assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def _tiny() -> None:
    Path("tiny.yaml").write_text(TINY)


def test_in_this_process_and_again(easybn, monkeypatch):
    Path("one.yaml").write_text(ONE)
    words = ("study", "one.yaml", "--out", "s", "--jobs", "0", "--device", "cpu")
    dry = easybn(*words, "--dry-run")
    assert dry.status == 0
    assert "a-0" in dry.out
    assert "not started" in dry.out
    assert "not measured" in dry.out
    assert not Path("s").exists()
    assert easybn(*words).status == 0
    (clean,) = Run(Path("s/a-0")).scores
    assert clean["attack"] == "clean"
    assert clean["n"] == 1000
    before = files("s")
    assert "done" in easybn(*words, "--dry_run").out
    assert easybn(*words).status == 0
    again = easybn("study", "one.yaml", "--out", "s")  # no process is started
    assert again.status == 0
    assert "1 of 1 runs done" in again.out
    assert files("s") == before

    monkeypatch.setattr(run_module, "fit", lambda *_, **__: pytest.fail("trained"))
    Path("one.yaml").write_text(ONE + "evaluate: [{points: 4, steps: 1, eps: 0.1, protocols: strong}]\n")
    assert easybn(*words).status == 0  # only what is new
    assert [row["attack"] for row in Run(Path("s/a-0")).scores] == ["clean", "pgd"]


def test_a_run_trained_by_hand_is_taken_over_and_another_ones_folder_left_alone(easybn, monkeypatch):
    Path("two.yaml").write_text(ONE + "grid: {seed: [0, 1]}\n")
    mine, other = study_file.read(Path("two.yaml")).runs
    train(mine.experiment, "s/a-0", device="cpu")
    train(mine.experiment, "s/a-1", device="cpu")  # of seed 0
    foreign, weights = files("s/a-1"), Path("s/a-0/model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(run_module, "fit", lambda *_, **__: pytest.fail("trained"))
    found = easybn("study", "two.yaml", "--out", "s", "--jobs", "0", "--device", "cpu")
    assert found.status == 1
    assert "failed: a-1: s/a-1 holds another run (training.seed: 0 -> 1)" in found.out
    assert Run(Path("s/a-0")).scores[0]["n"] == 1000
    assert Path("s/a-0/model.safetensors").stat().st_mtime_ns == weights
    assert files("s/a-1") == foreign
    outer = easybn("study", "two.yaml", "--out", "s")  # no process is started for it either
    assert outer.status == 1
    assert "failed: a-1: s/a-1 holds another run" in outer.out
    assert files("s/a-1") == foreign
    with pytest.raises(ValueError, match="holds another run"):
        train_and_evaluate(other, Path("s/a-1"))


def test_a_failure_is_isolated_reported_and_retried(easybn):
    Path("f.yaml").write_text(
        "runs:\n"
        "  - {name: bad, train_images: 80, epochs: 1, batch_size: 20, data: later}\n"
        "  - {name: good, train_images: 80, epochs: 1, batch_size: 20}\n"
    )
    words = ("study", "f.yaml", "--out", "s", "--device", "cpu", "--threads", "1")
    found = easybn(*words)
    assert found.status == 1
    assert "1 of 2 runs done: s" in found.out
    assert "failed: bad-0: unknown data set 'later'" in found.out
    assert "easybn study f.yaml --out s --retry" in found.out
    assert "unknown data set" in Path("s/bad-0/study.log").read_text()
    before = files("s")
    again = easybn(*words)
    assert again.status == 1
    assert "failed: bad-0: unknown data set 'later'" in again.out
    assert files("s") == before  # it is not tried again of itself
    source = data.load("sample")
    for split, part in (("train", source.train), ("test", source.test)):
        for i in range(100):
            path = Path("later", split, str(int(part.labels[i])), f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.images[i, 0].numpy()).save(path)
    mended = easybn(*words, "--retry", "--jobs", "0")
    assert mended.status == 0
    assert Run(Path("s/bad-0")).scores[0]["n"] == 100
    assert not Path("s/bad-0/failed.json").exists()


@pytest.mark.filterwarnings("default:.*made again from checkpoint")
def test_what_is_lost_is_made_again_and_what_is_damaged_is_named(easybn):
    Path("one.yaml").write_text(ONE + "evaluate: [{points: 4, steps: 1, eps: 0.1, protocols: strong}]\n")
    words = ("study", "one.yaml", "--out", "s", "--jobs", "0", "--device", "cpu")
    assert easybn(*words).status == 0
    folder = Path("s/a-0")
    before, model = Run(folder).scores, (folder / "model.safetensors").read_bytes()
    (clean, pgd) = (folder / "scores.jsonl").read_text().splitlines(keepends=True)
    (folder / "scores.jsonl").write_text(clean)
    assert easybn(*words).status == 0
    again = [{**row, "seconds": 0} for row in Run(folder).scores]
    assert again == [{**row, "seconds": 0} for row in before]
    (folder / "scores.jsonl").write_text(clean + pgd[:40])
    found = easybn(*words)
    assert found.status == 1
    assert "failed: a-0: s/a-0/scores.jsonl, line 2 is damaged: it is cut off" in found.out
    (folder / "scores.jsonl").write_text(clean)
    (folder / "model.safetensors").write_bytes(b"")
    found = easybn(*words)
    assert found.status == 0
    assert "put aside as model.safetensors.corrupt and made again from checkpoint.pt" in found.err
    assert (folder / "model.safetensors").read_bytes() == model
    assert [{**row, "seconds": 0} for row in Run(folder).scores] == again


def test_a_damaged_note_of_a_failure_stops_no_other_run(easybn):
    Path("two.yaml").write_text(ONE + "grid: {seed: [0, 1]}\n")
    Path("s/a-0").mkdir(parents=True)
    Path("s/a-0/failed.json").write_text("")
    words = ("study", "two.yaml", "--out", "s", "--device", "cpu")
    found = easybn(*words, "--jobs", "0")
    assert found.status == 1
    assert "failed: a-0: s/a-0/failed.json is damaged" in found.out
    assert Run(Path("s/a-1")).finished
    assert "1 of 2 runs done" in easybn(*words).out
    assert "failed.json is damaged" in easybn(*words, "--dry_run").out
    assert easybn(*words, "--jobs", "0", "--retry").status == 0


HUNGRY = """
import os, time
from dataclasses import dataclass
from pathlib import Path
import torch
from filelock import FileLock, Timeout
from easybn.recipes import Vanilla

memory, refused = FileLock("memory.lock"), Path("refused")  # a device that has room for one process

@dataclass(frozen=True)
class Hungry(Vanilla):
    def __call__(self, *args, **options):
        try:
            memory.acquire(timeout=0)  # until the process ends
        except Timeout:
            refused.touch()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB") from None
        deadline = time.monotonic() + 120
        while not refused.exists() and time.monotonic() < deadline:  # both at once, the first time
            time.sleep(0.02)
        yield from super().__call__(*args, **options)
"""


def test_a_run_that_runs_out_of_memory_beside_another_is_done_alone(easybn):
    Path("hungry.py").write_text(HUNGRY)
    Path("two.yaml").write_text(
        ONE.replace("{name: a,", "{name: a, recipe: hungry.py:Hungry,") + "grid: {seed: [0, 1]}"
    )
    found = easybn("study", "two.yaml", "--out", "s", "--device", "cpu", "--threads", "1", "--jobs", "2")
    assert found.status == 0, found.out
    retried = [name for name in ("a-0", "a-1") if Path("s", name, "retried.json").exists()]
    assert len(retried) == 1
    log = Path("s", retried[0], "study.log").read_text()
    assert (
        "CUDA out of memory. Tried to allocate 2.00 GiB: other runs were beside it, so it is tried again alone" in log
    )
    assert log.count("--jobs 0") == 2
    assert f"{retried[0]}: started, again and alone, because it ran out of memory beside others" in found.out
    status = easybn("study", "two.yaml", "--out", "s", "--status").out
    assert "2 of 2 done" in status


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("study papr", "no study of the package (did you mean paper?)"),
        ("study tiny.yaml --only x-*", "--only x-*: tiny has no such run"),
        ("study tiny.yaml --jobs -1", "--jobs must be at least 0"),
        ("study tiny.yaml --threads 0", "--threads at least 1"),
        ("study tiny.yaml --estimate", "--estimate goes with --dry_run"),
    ],
)
def test_mistakes(words, told, easybn):
    found = easybn(*words.split())
    assert found.status == 2
    assert told in found.err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_in_good_order(easybn):
    Path("long.yaml").write_text("runs: [{name: a, epochs: 500, batch_size: 16}]\n")
    process = start(
        "study", "long.yaml", "--out", "s", "--device", "cpu", "--checkpoint_seconds", "0", "--threads", "1"
    )
    wait_until(Path("s/a-0/checkpoint.pt").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "easybn: stopped; everything done so far is saved: run the same command to continue\n"
    assert "a-0: started" in out
    log = Path("s/a-0/study.log").read_text()
    assert f"stopped after step {load(Path('s/a-0/checkpoint.pt')).step} of" in log
    assert not Path("s/a-0/failed.json").exists()
    with Run(Path("s/a-0")).locked():  # nobody is left at work
        pass


def wait_until(reached, process, seconds: float = 300.0) -> None:
    """Until ``reached()``, or the process has ended."""
    deadline = time.monotonic() + seconds
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "the process is too slow"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """Of a process, by Linux's /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(words[1]) == pid:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found by /proc")
def test_kills_at_random_moments_change_no_row(easybn):
    whole = start(*WORDS, "--out", "whole")
    draw = random.Random(5)
    kills = 0
    while kills < 5:
        process = start(*WORDS, "--out", "killed", "--jobs", "2", "--checkpoint_seconds", "0", start_new_session=True)
        wait_until(lambda pid=process.pid: children(pid), process)
        # imports, training and evaluation of a session together take some seconds; each one gets further
        time.sleep(draw.uniform(0, 4 + 2 * kills))
        if process.poll() is not None:
            process.communicate()
            break
        for pid in [*children(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
        kills += 1
    assert kills >= 3
    assert easybn(*WORDS, "--out", "killed").status == 0
    whole.communicate(timeout=600)
    assert whole.returncode == 0
    assert_same("killed", "whole")


@pytest.mark.slow
def test_a_killed_study_leaves_nobody_behind(easybn):
    Path("long.yaml").write_text("runs: [{name: a, epochs: 500, batch_size: 16}]\n")
    process = start("study", "long.yaml", "--out", "s", "--device", "cpu", "--checkpoint_seconds", "0")
    wait_until(Path("s/a-0/checkpoint.pt").exists, process)
    process.kill()
    process.communicate(timeout=60)
    with Run(Path("s/a-0")).locked(timeout=60):  # the run saves and stops by itself
        assert "stopped after step" in Path("s/a-0/study.log").read_text()


@pytest.mark.slow
def test_two_studies_on_one_folder_share_the_work(easybn):
    both = [start(*WORDS, "--out", "shared") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        assert "2 of 2 runs done" in out
    assert easybn(*WORDS, "--out", "alone", "--jobs", "0").status == 0
    assert_same("shared", "alone")
    for name in ("vanilla-0", "ebn-0"):
        assert len(Run(Path("shared", name)).sessions) == 1
