"""``easybn train`` in two processes: started by torchrun, accelerate and Slurm, and killed at any moment."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from easybn.json_files import read_json
from easybn.runs.run import Run
from easybn.train.launch import launched

from ..ranks import Ranks
from ..slurm import wait_until

WORDS = (
    "train", "--recipe", "EBN", "--train_images", "90", "--epochs", "3", "--batch_size", "15", "--lr", "0.05",
    "--augment", "crop_flip", "--device", "cpu",
)  # fmt: skip
STEPS = 15
EASYBN = (sys.executable, "-m", "easybn")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "easybn")
ACCELERATE = (
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "easybn",
)  # fmt: skip
SRUN = ("srun", "-N2", "-n2", *EASYBN)
LOST = "another process of this training has ended"


def to(folder: Path, checkpoint_seconds: str = "0") -> tuple[str, ...]:
    return (*WORDS, "--checkpoint_seconds", checkpoint_seconds, "--out", str(folder))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model of two processes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ranks = Ranks(to(folder / "run", "1e9"), folder / "log")
    assert ranks.wait() == [0, 0], ranks.printed()
    return model_of(folder / "run")


def model_of(folder: Path) -> bytes:
    (*_, session) = read_json(folder / "environment.json")
    assert session["processes"] == 2
    assert [row["epoch"] for row in Run(folder).metrics] == [1, 2, 3]
    assert Run(folder).metrics[-1]["step"] == STEPS
    return (folder / "model.safetensors").read_bytes()


def started(words: tuple[str, ...], environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        words, env={**os.environ, **(environment or {})}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_launchers_give_the_same_model_to_the_bit(launcher, undisturbed, tmp_path):
    process = started((*launcher, *to(tmp_path / "run")))
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert model_of(tmp_path / "run") == undisturbed
    assert out.count("done: ") == 1  # the first process alone reports


def test_a_slurm_job_of_two_nodes_gives_the_same_model_to_the_bit(slurm, undisturbed, tmp_path):
    process = started((*SRUN, *to(tmp_path / "run")), slurm.environment)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert model_of(tmp_path / "run") == undisturbed
    assert out.count("done: ") == 1


def test_accelerate_on_cpus_that_starts_one_process_is_told():
    """``accelerate launch --cpu --num_processes 2`` starts one, which would train alone."""
    environment = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    with pytest.raises(ValueError, match="starts a single process"):
        launched(environment)
    assert launched({"ACCELERATE_USE_CPU": "True"}) is None  # --num_processes 1
    with pytest.raises(ValueError, match="started by MPI"):
        launched({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"})


@pytest.mark.slow
def test_accelerate_on_cpus_that_starts_one_process_is_told_when_it_does(tmp_path):
    cpu = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "easybn")
    process = started((*cpu, *to(tmp_path / "run")))
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "starts a single process" in err
    assert not (tmp_path / "run").exists()


# Killed


def saved(folder: Path, times: int) -> Callable[[], bool]:
    """Whether the training in ``folder`` has written its checkpoint ``times`` times since now."""
    path, before, count = folder / "checkpoint.pt", [0], [0]
    if path.exists():
        before[0] = path.stat().st_mtime_ns

    def reached() -> bool:
        now = path.stat().st_mtime_ns if path.exists() else 0
        count[0] += now != before[0]
        before[0] = now
        return count[0] >= times

    return reached


def wait_for(reached: Callable[[], bool], ended: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached() and not ended():
        assert time.monotonic() < deadline, "the training is too slow"
        time.sleep(0.001)


def kill(victims: tuple[int, ...], draw: random.Random, most: int, tmp_path: Path) -> bool:
    """Start or resume the training, and kill ``victims`` at a moment after up to ``most`` checkpoints.

    The others stop within a minute, in one line. Returns whether it was not finished before.
    """
    folder = tmp_path / "run"
    ranks = Ranks(to(folder), tmp_path / f"log-{most}-{victims}")
    wait_for(saved(folder, draw.randint(1, most)), lambda: not all(each.is_alive() for each in ranks.processes))
    time.sleep(draw.uniform(0, 0.02))
    in_time = all(each.is_alive() for each in ranks.processes)
    ranks.kill(*victims)
    statuses = ranks.wait(60)
    if not in_time or Run(folder).finished:
        return False
    for rank, status in enumerate(statuses):
        if rank in victims:
            assert status == -signal.SIGKILL
            continue
        assert status > 0
        (line,) = (line for line in ranks.printed(rank).splitlines() if "easybn: error" in line)
        assert LOST in line
        assert "run the same command again to resume" in line
        assert "Traceback" not in ranks.printed(rank)
    return True


def assert_ends_as(expected: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ranks = Ranks(to(folder, "1e9"), tmp_path / "log")
    assert ranks.wait() == [0, 0], ranks.printed()
    assert model_of(folder) == expected
    assert not [path for path in folder.iterdir() if path.name.endswith("easybn-part")]


def test_a_killed_process_stops_the_others_and_the_same_command_resumes(undisturbed, tmp_path):
    """At three moments of one training: one that the first one does not survive, another, all."""
    draw = random.Random(3)
    for most, victims in enumerate(((1,), (0,), (0, 1)), 1):
        assert kill(victims, draw, most, tmp_path)
    assert_ends_as(undisturbed, tmp_path)
    assert len(read_json(tmp_path / "run/environment.json")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_killed_at_twenty_moments(moment, undisturbed, tmp_path):
    draw = random.Random(f"moment {moment}")
    kill(draw.choice([(0,), (1,), (0, 1)]), draw, STEPS, tmp_path)
    assert_ends_as(undisturbed, tmp_path)


def ranks_below(process: int) -> dict[int, int]:
    """Rank -> process id of torchrun's processes."""
    found = {}
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in children.read_text().split():
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            found |= {int(word.removeprefix(b"RANK=")): int(child) for word in environment if word.startswith(b"RANK=")}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)], ids=["the first", "another", "all, and torchrun"])
def test_processes_of_torchrun_are_killed(victims, undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = started((*TORCHRUN, *to(folder)))
    wait_for(saved(folder, 3), lambda: process.poll() is not None)
    ranks = ranks_below(process.pid)
    if len(victims) == 2:
        process.kill()
    for victim in victims:
        os.kill(ranks[victim], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    if len(victims) == 1:
        assert "Signal 9 (SIGKILL)" in err  # torchrun's words
    assert not Run(folder).finished
    process = started((*TORCHRUN, *to(folder)))
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert model_of(folder) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_process_of_a_slurm_job_is_killed(node, slurm, undisturbed, tmp_path):
    folder = tmp_path / "run"
    process = started((*SRUN, *to(folder)), slurm.environment)
    wait_for(saved(folder, 3), lambda: process.poll() is not None)
    for each in slurm.processes(node):
        if b"easybn" in Path(f"/proc/{each}/cmdline").read_bytes():
            os.kill(each, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert re.search(rf"{LOST}|Killed", err), err
    assert not Run(folder).finished
    wait_until(lambda: not slurm.jobs(), "the job has gone")
    process = started((*SRUN, *to(folder)), slurm.environment)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert model_of(folder) == undisturbed
