"""Studies and evaluations as job arrays of a real Slurm of two nodes (tests/slurm.py): preempted, killed, cut off.

What they end with is compared with the same commands on this machine, which nothing disturbs.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from easybn.cli.main import main
from easybn.evaluation.store import Store
from easybn.json_files import read_json
from easybn.study import in_jobs

from ..evaluation.store.fake_job import same
from ..slurm import Cluster, wait_until
from .test_study import rows

SECONDS = 240.0  # in which anything happens, on a busy machine
STUDY = """
name: tiny
runs:
  - {name: vanilla, train_images: 120, epochs: 2, batch_size: 10}
  - {name: ebn, train_images: 120, epochs: 2, batch_size: 10, recipe: EBN, recipe.attack.ball.eps: 8/255}
grid: {seed: [0, 1]}
evaluate:
  - {points: 4, batch_size: 4, steps: 2, eps: 8/255}
"""
RUNS = ("vanilla-0", "vanilla-1", "ebn-0", "ebn-1")
WORDS = ("study", "tiny.yaml", "--device", "cpu", "--checkpoint_seconds", "0")
ATTACK = (
    *("--attacks", "apgd-ce", "--norm", "linf", "--eps", "8/255", "--points", "24", "--batch_size", "8"),
    *("--chunk", "2", "--no_diagnosis", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study and the evaluation of one of its runs, done here."""
    folder, before = tmp_path_factory.mktemp("local"), Path.cwd()
    os.chdir(folder)
    try:
        Path("tiny.yaml").write_text(STUDY)
        assert main([*WORDS, "--jobs", "0", "--out", "study"]) == 0
        shutil.copytree("study/ebn-0", "evaluated")
        assert main(["evaluate", "evaluated", *ATTACK]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def slurm_here(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The commands of this process submit to it, and look at the queue often."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(in_jobs, "LONGEST", 1.0)
    Path("tiny.yaml").write_text(STUDY)
    yield slurm
    if jobs := slurm.jobs():
        slurm.call("scancel", "--signal=KILL", "--full", *jobs)
        slurm.call("scancel", *jobs)
    for name in set(slurm.nodes()) - set(slurm.daemons):
        slurm.start_node(name)
    wait_until(lambda: set(slurm.nodes().values()) == {"idle"} and not slurm.jobs(), "both nodes are idle", SECONDS)


def meanwhile(disturb: Callable[[], object]) -> "Future[object]":
    """Run it in a thread, beside the command that waits in this one."""
    with_thread = ThreadPoolExecutor(1)
    future = with_thread.submit(disturb)
    with_thread.shutdown(wait=False)
    return future


def job_of(slurm: Cluster, folder: Path) -> str:
    """Number of the job that works in the folder of a run, by the note of its lock."""
    note = (folder / ".study.lock.by").read_text()
    return note.partition("(Slurm job ")[2].partition(" of ")[0]


def restarts(folder: Path) -> list[int]:
    """How often Slurm had restarted the job that ended each element of the last array."""
    array = read_json(folder / ".slurm" / "arrays.json")["arrays"][-1]
    reports = [(folder / ".slurm" / array["name"]).glob(f"{i}-*.json") for i in range(len(array["tasks"]))]
    return [max((read_json(path)["restart"] for path in paths), default=-1) for paths in reports]


def assert_same_runs(one: Path, other: Path, names: tuple[str, ...] = RUNS) -> None:
    for name in names:
        assert rows(one / name) == rows(other / name)
        assert len(rows(one / name)["scores"]) == 2
        assert (one / name / "model.safetensors").read_bytes() == (other / name / "model.safetensors").read_bytes()


def assert_same_verdicts(one: Path, other: Path) -> None:
    stores = [Store.existing(next((each / "verdicts").iterdir())) for each in (one, other)]
    assert stores[0].folder.name == stores[1].folder.name
    assert same(*(store.record for store in stores))
    assert rows(one)["scores"] == rows(other)["scores"]


def assert_nothing_left(folder: Path) -> None:
    """No half-written file, and no lock that anybody holds."""
    assert not [*folder.rglob("*.easybn-part")]
    assert not [*folder.rglob("*.by")]


def test_a_step_runs_on_both_nodes(slurm):
    told = slurm.call("srun", "-N2", "-n2", "sh", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME")
    assert len({line.split()[1] for line in told.splitlines()}) == 2
    assert {line.split()[0] for line in told.splitlines()} == {"0", "1"}


def test_a_study_of_which_a_job_is_preempted(easybn, slurm_here, local):
    folder = Path("study/vanilla-0").absolute()

    def preempt() -> None:
        wait_until((folder / "checkpoint.pt").exists, "it has saved", SECONDS)
        slurm_here.call("scancel", "--signal=USR2", job_of(slurm_here, folder))

    disturbance = meanwhile(preempt)
    found = easybn(*WORDS, "--executor", "slurm", "--slurm.partition", "main", "--out", "study")
    assert disturbance.exception() is None
    assert found.status == 0, found.out
    assert "submitted 4 of 4 as job" in found.out
    assert "4 of 4 runs done: study" in found.out
    assert restarts(Path("study"))[0] > 0
    assert_same_runs(Path("study"), local / "study")
    assert_nothing_left(Path("study"))
    assert "saved to" in (folder / "study.log").read_text()
    again = easybn(*WORDS, "--executor", "slurm", "--out", "study")
    assert again.status == 0
    assert "submitted" not in again.out


def test_an_evaluation_in_shards_of_which_a_node_is_lost(easybn, slurm_here, local):
    shutil.copytree(local / "study/ebn-0", "run")

    def lose() -> None:
        done = Path("run").glob
        wait_until(lambda: len([*done("verdicts/*/attempts/*")]) > 2, "the shards are at work", SECONDS)
        slurm_here.lose_node("n1")

    disturbance = meanwhile(lose)
    found = easybn("evaluate", "run", *ATTACK, "--executor", "slurm", "--slurm.shards", "4")
    assert disturbance.exception() is None
    assert found.status == 0, found.out
    assert "run shard 3/4: done" in found.out
    assert sum(restarts(Path("run"))) == 1
    assert_same_verdicts(Path("run"), local / "evaluated")
    assert_nothing_left(Path("run"))
