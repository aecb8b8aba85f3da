"""Several processes on one evaluation, and processes that are killed: always the rows of an undisturbed run."""

import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from easybn.evaluation.record import Record
from easybn.evaluation.store import Store, work

from .fake_job import ITERATIONS, Fake, manifest, same

SCRIPT = Path(__file__).with_name("fake_job.py")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Record:
    store = Store.open(tmp_path_factory.mktemp("undisturbed") / "store", manifest())
    work(store, Fake())
    return store.record


@contextmanager
def started(folder: Path, *words: str):
    command = [sys.executable, "-W", "error", str(SCRIPT), str(folder / "store"), str(folder / "log"), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def begun(folder: Path) -> Counter:
    """How many times each stage was begun anew, from the log."""
    return Counter(tuple(line.split()[:2]) for line in (folder / "log").read_text().splitlines())


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on(kills, undisturbed, tmp_path):
    draw, lines = random.Random(kills), 0
    for _ in range(kills):
        with started(tmp_path) as process:
            for _ in range(draw.randint(1, 60 // kills + 2)):  # a line an iteration, so that each session gets on
                lines += bool(process.stdout.readline())
            process.kill()
            process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 0)
        assert process.returncode or kills > 3
    with started(tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "whole"
    assert lines
    store = Store.existing(tmp_path / "store")
    assert same(store.record, undisturbed)
    assert not list(store.folder.glob("partial/*.state"))
    # a stage is begun anew only if it was killed before its first state
    assert sum(begun(tmp_path).values()) <= len(begun(tmp_path)) + kills
    assert len(out.splitlines()) - 1 < ITERATIONS * len(begun(tmp_path)), "what was done is not done again"


@pytest.mark.parametrize("n", [2, 3])
def test_processes_share_the_work(n, undisturbed, tmp_path):
    with ExitStack() as stack:
        processes = [stack.enter_context(started(tmp_path, "hold")) for _ in range(n)]
        held = [process.stdout.readline() for process in processes]
        assert {line.split()[0] for line in held} == {"holding"}
        assert len(set(held)) == n, "each has a chunk of its own"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert (process.returncode, err) == (0, "")
            assert out.splitlines()[-1] == "whole", "each ends with all of it"
    assert set(begun(tmp_path).values()) == {1}
    assert same(Store.existing(tmp_path / "store").record, undisturbed)


def test_the_chunk_of_a_killed_process_is_taken_over_at_once(undisturbed, tmp_path):
    with started(tmp_path, "hold") as killed:
        held = killed.stdout.readline()
        killed.kill()  # its parent, this one, has not looked yet: a zombie
        with started(tmp_path) as other:
            _, err = other.communicate(timeout=120)
    assert held == "holding 0\n"
    assert (other.returncode, err) == (0, "")
    assert {stage: times for stage, times in begun(tmp_path).items() if times > 1} == {("0", "0"): 2}
    assert same(Store.existing(tmp_path / "store").record, undisturbed)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_in_any_order(order, undisturbed, tmp_path):
    store = Store.open(tmp_path / "store", manifest())
    fake = Fake(tmp_path / "log")
    seen = []
    for part in order:
        assert work(store, fake, shard=(part, 3))
        seen.append(len(store.verdicts().points))
    assert seen[0] < seen[1] < seen[2] == 25
    assert set(begun(tmp_path).values()) == {1}
    assert same(store.record, undisturbed)


def test_shards_as_processes(undisturbed, tmp_path):
    with started(tmp_path, "shard", "1", "2") as b, started(tmp_path, "shard", "0", "2") as a:
        for process in (a, b):
            out, err = process.communicate(timeout=120)
            assert (process.returncode, err) == (0, "")
            assert out.splitlines()[-1] == "whole"
    assert set(begun(tmp_path).values()) == {1}
    assert same(Store.existing(tmp_path / "store").record, undisturbed)
