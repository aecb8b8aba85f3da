"""Studies and evaluations as job arrays of a real Slurm of two nodes (tests/slurm.py): preempted, killed, cut off.

What they end with is compared with the same commands on this machine, which nothing disturbs.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
  - {name: ebn, train_images: 120, epochs: 6, batch_size: 10, recipe: EBN, recipe.attack.ball.eps: 8/255}
grid: {seed: [0, 1]}
evaluate:
  - {points: 4, batch_size: 4, steps: 2, eps: 8/255}
"""
RUNS = ("vanilla-0", "vanilla-1", "ebn-0", "ebn-1")
WORDS = ("study", "tiny.yaml", "--out", "study", "--device", "cpu")
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
        assert main([*WORDS, "--jobs", "0"]) == 0
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


def worker(folder: Path, job: bool = False) -> str:
    """Number of the process, or of the Slurm job, that works on a run, by the note of its lock; "" if none does."""
    with suppress(FileNotFoundError):
        found = re.match(r"process (\d+) on \S+ \(Slurm job (\S+) of ", (folder / ".study.lock.by").read_text())
        return found[1 + job] if found else ""
    return ""


def restarts(folder: Path) -> dict[str, int]:
    """How often Slurm had restarted the job that ended each element of the last array."""
    array = read_json(folder / ".slurm" / "arrays.json")["arrays"][-1]
    reports = [(folder / ".slurm" / array["name"]).glob(f"{i}-*.json") for i in range(len(array["tasks"]))]
    most = [max((read_json(path)["restart"] for path in paths), default=-1) for paths in reports]
    return dict(zip(array["tasks"], most, strict=True))


def assert_same_runs(one: Path, other: Path, names: tuple[str, ...] = RUNS) -> None:
    for name in names:
        assert rows(one / name) == rows(other / name)
        assert len(rows(one / name)["scores"]) == 3  # clean, and PGD under two protocols
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


def test_mistakes_are_told_in_a_line_and_leave_no_job(easybn, slurm_here):
    for words, told in (
        (("--slurm.partition", "nope"), "easybn: error: sbatch refuses the job: .*Invalid partition name specified"),
        (("--slurm.time", "0"), "easybn: error: --slurm.time must be positive, got 0"),
        (("--slurm.extra", "=a"), r"easybn: error: --slurm.extra =a: give options of sbatch without dashes.*"),
        (("--slurm.partitoin", "main"), r".* unrecognized arguments: --slurm.partitoin .*mean slurm.partition\?.*"),
        (("--executor", "local", "--slurm.cpus", "2"), "easybn: error: --slurm.cpus goes with --executor slurm"),
    ):
        found = easybn(*WORDS, "--executor", "slurm", *words)
        assert found.status == 2
        assert re.fullmatch(told + "\n", found.err), found.err
    assert not slurm_here.jobs()
    assert not [path for path in Path("study").rglob("*") if path.is_dir() and path.name != ".slurm"]


def test_a_study_of_which_a_job_is_preempted(easybn, slurm_here, local):
    folder = Path("study/ebn-0").absolute()

    def preempt() -> None:
        wait_until((folder / "metrics.jsonl").exists, "it trains", SECONDS)
        slurm_here.call("scancel", "--signal=USR2", worker(folder, job=True))

    disturbance = meanwhile(preempt)
    found = easybn(*WORDS, "--executor", "slurm", "--slurm.partition", "main", "--checkpoint_seconds", "1e9")
    assert disturbance.exception() is None
    assert found.status == 0, found.out
    assert "submitted 4 of 4 as job" in found.out
    assert "4 of 4 runs done: study" in found.out
    assert restarts(Path("study"))["ebn-0"] > 0
    assert "saved to study/ebn-0/checkpoint.pt" in (folder / "study.log").read_text()
    assert_same_runs(Path("study"), local / "study")
    assert_nothing_left(Path("study"))
    more = easybn(*WORDS, "--executor", "slurm")
    assert more.status == 0
    assert "submitted" not in more.out


@pytest.mark.parametrize("told", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_on_a_node_that_is_cut_off_and_found_alive_later(told, easybn, slurm_here, local):
    folder, words = Path("study/ebn-0").absolute(), (*WORDS, "--executor", "slurm", "--only", "ebn-0")
    assert easybn(*words, "--checkpoint_seconds", "0", "--slurm.detach").status == 0
    wait_until((folder / "checkpoint.pt").exists, "it has saved", SECONDS)
    earlier = int(worker(folder))
    os.kill(earlier, signal.SIGSTOP)
    (node,) = [name for name in slurm_here.nodes() if earlier in slurm_here.processes(name)]
    slurm_here.lose_node(node, steps=False)
    if told:  # before Slurm would have noticed
        slurm_here.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
    wait_until(lambda: worker(folder) not in ("", str(earlier)), "the job was started again elsewhere", SECONDS)
    os.kill(earlier, signal.SIGCONT)
    wait_until(lambda: earlier not in slurm_here.processes(), "the earlier process has ended", SECONDS)
    assert "is another process's now" in (folder / "study.log").read_text()
    found = easybn(*words, "--checkpoint_seconds", "0")
    assert found.status == 0, found.out
    assert "submitted" not in found.out
    assert restarts(Path("study")) == {"ebn-0": 1}
    assert_same_runs(Path("study"), local / "study", ("ebn-0",))
    assert_nothing_left(Path("study"))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_any_moment_of_the_processes_of_jobs(kills, easybn, slurm_here, local):
    """Of the command, of what started it in the job, or of Slurm's own process that watches the job."""
    names, draw, killed, studies = ("vanilla-0", "ebn-0"), random.Random(kills), 0, ["study0"]
    words = (*WORDS, "--executor", "slurm", "--only", *names, "--checkpoint_seconds", "0", "--out")

    def saved() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path(studies[-1]).glob("*/checkpoint.pt")}

    while killed < kills:
        before = saved()
        if "submitted" not in easybn(*words, studies[-1], "--slurm.detach").out:  # all is done
            studies.append(f"study{len(studies)}")
            continue
        wait_until(lambda before=before: saved() != before or not slurm_here.jobs(), "a run has saved", SECONDS)
        time.sleep(draw.uniform(0, 0.5))
        if processes := slurm_here.processes():
            with suppress(ProcessLookupError):
                os.kill(draw.choice(processes), signal.SIGKILL)
                killed += 1
        if jobs := slurm_here.jobs():  # the other run is killed too
            with suppress(subprocess.CalledProcessError):  # it has ended meanwhile
                slurm_here.call("scancel", "--signal=KILL", *jobs)
        wait_until(lambda: not slurm_here.jobs(), "the jobs have ended", SECONDS)
    for study in studies:
        found = easybn(*words, study)
        assert found.status == 0, found.out
        assert_same_runs(Path(study), local / "study", names)
        assert_nothing_left(Path(study))


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
    assert sorted(restarts(Path("run")).values()) == [0, 0, 0, 1]
    assert_same_verdicts(Path("run"), local / "evaluated")
    assert_nothing_left(Path("run"))
