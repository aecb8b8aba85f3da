"""easybn study --status: how a study stands that was started, at once, without torch and the parser of all commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from easybn.runs.run import Run
from easybn.study.plan import CLEAN, record_evaluation, study_lock
from easybn.study.state import record_failure, record_retry

GRID = """
name: grid
runs: [{name: a, train_images: 100, validation: 0.2, epochs: 2, batch_size: 40, lr: 0.05, recipe: EBN}]
grid: {seed: [1, 2, 3, 4, 5, 6]}
"""
DRY = ("study", "grid.yaml", "--jobs", "0", "--device", "cpu")
NAME = "a-"


@pytest.fixture
def started(easybn, finished_run, monkeypatch):
    """A study of six runs, of which the first is done: :data:`tests.conftest.TINY`."""
    Path("grid.yaml").write_text(GRID)
    monkeypatch.setattr("easybn.study.execute.do", lambda *_, **__: 0)  # started, and nothing done
    out = Path("runs/grid")
    assert easybn(*DRY).status == 0
    done = out / f"{NAME}1"
    shutil.copytree(finished_run.folder, done)
    Run(done).add_scores([{"attack": "clean", "n": 1000, "correct": 300, "accuracy": 0.3, "branch": "main"}])
    record_evaluation(done, CLEAN, 2.0, [])
    return out


def test_what_runs_where_what_failed_and_why_and_the_time_left(started, easybn, finished_run):
    for seed, error in ((2, "no memory"), (3, "no memory")):
        (started / f"{NAME}{seed}").mkdir()
        record_failure(started / f"{NAME}{seed}", error)
    (started / f"{NAME}4").mkdir()
    record_retry(started / f"{NAME}4", "CUDA out of memory")
    (started / f"{NAME}5").mkdir()
    epoch = Run(started / f"{NAME}1").metrics[-1]["seconds"] / 2
    with study_lock(started / f"{NAME}5"):
        found = easybn("study", "grid.yaml", "--status")
    assert found.status == 0
    summary, *lines = found.out.splitlines()
    minutes = 3 * (2 * epoch + 2.0) / 60  # three runs as long as the first, and one at a time
    assert summary == f"{started}: 1 of 6 done, 1 under way, 2 failed; about {minutes:.1f} min remaining"
    assert lines[0] == "under way:"
    assert lines[1].startswith(f"  {NAME}5: started, about {minutes / 3:.1f} min remaining: process ")
    assert lines[2:4] == ["failed:", f"  {NAME}2, {NAME}3: no memory"]
    assert lines[5:7] == [
        "not under way:", f"  {NAME}4: waiting, again and alone, because it ran out of memory beside others",
    ]  # fmt: skip
    assert lines[-1].startswith("Weights were not read for this")
    by_folder = easybn("study", str(started), "--status", "--only", "*-1", "*-2").out.splitlines()
    assert by_folder[0] == f"{started}: 1 of 2 done, 1 failed"


def test_a_study_that_was_not_started_or_has_changed(started, easybn):
    grid = Path("grid.yaml")
    grid.write_text(GRID.replace("[1, 2, 3, 4, 5, 6]", "[1, 2]"))
    found = easybn("study", "grid.yaml", "--status")
    assert found.out.splitlines()[0] == (
        "note: grid.yaml has changed since the study was last started, with what is shown here"
    )
    assert "1 of 6 done" in found.out
    other = easybn("study", "grid.yaml", "--status", "--out", "other")
    assert other.status == 0
    assert other.out.startswith("note: no study was started in other (there is no study.json)\n")
    assert f"{NAME}2" in other.out
    assert not Path("other").exists()
    Path("empty").mkdir()
    none = easybn("study", "empty", "--status")
    assert (none.status, none.err.count("\n")) == (2, 1)
    assert "empty has no study.json" in none.err
    both = easybn("study", str(started), "--status", "--out", "other")
    assert "--out" in both.err
    (started / "study.json").write_text("{")
    damaged = easybn("study", str(started), "--status")
    assert (damaged.status, damaged.err.count("\n")) == (2, 1)
    assert "study.json is damaged" in damaged.err


def test_other_options_and_mistakes_are_the_commands_own(started, easybn):
    beside = easybn("study", "grid.yaml", "--status", "--jobs", "2")
    assert beside.out == easybn("study", "grid.yaml", "--status").out
    assert "did you mean only?" in easybn("study", "grid.yaml", "--status", "--onyl", "a").err
    assert "--only x: grid has no such run" in easybn("study", "grid.yaml", "--status", "--only", "x").err
    assert "no study of the package" in easybn("study", "grit.yaml", "--status").err
    assert "--status" in easybn("study", "--status", "--help").out


def test_nothing_slow_is_imported(started):
    script = (
        "import sys\nfrom easybn.cli.main import main\n"
        "assert main(['study', 'grid.yaml', '--status']) == 0\n"
        "assert not {'torch', 'jsonargparse', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 6 done" in done.stdout
