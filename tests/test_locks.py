"""Locks that are held by other processes, and taken over from an earlier instance of the same Slurm job."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from easybn.files import Removed, guarding, write_text
from easybn.locks import Held, SlurmJob, held, holder

# holds the lock, says so, and then writes what it is told to, until it is refused
HOLDER = """
import sys
from pathlib import Path
from easybn.files import Removed, write_text
from easybn.locks import held
folder = Path(sys.argv[1])
with held(folder / ".lock", folder):
    print("held", flush=True)
    for line in sys.stdin:
        try:
            write_text(folder / "state", line)
            print("written", flush=True)
        except Removed as error:
            print("refused:", error, flush=True)
"""


def in_job(restart: int, number: str = "12") -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": "3", "SLURM_CLUSTER_NAME": "main",
        "SLURM_RESTART_COUNT": str(restart),
    }  # fmt: skip


@pytest.fixture
def earlier(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process of the job's first instance that holds the lock, and is still at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **in_job(0)},
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def asked_to_write(process: "subprocess.Popen[str]", text: str) -> str:
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def be(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "me", [{}, in_job(0), in_job(1, "13"), {**in_job(1), "SLURM_CLUSTER_NAME": "other"}], ids=str
)  # fmt: skip
def test_nobody_else_takes_over(me, earlier, monkeypatch, tmp_path):
    be(monkeypatch, me)
    told = rf"^process {earlier.pid} on \S+ \(Slurm job 12_3 of main, restart 0\), since "
    with pytest.raises(Held, match=told), held(tmp_path / ".lock", tmp_path):
        pass
    assert asked_to_write(earlier, "a") == "written\n"


def test_a_restarted_job_takes_over_and_its_earlier_process_is_refused(earlier, monkeypatch, tmp_path):
    assert asked_to_write(earlier, "a") == "written\n"
    be(monkeypatch, in_job(1))
    with held(tmp_path / ".lock", tmp_path):
        assert asked_to_write(earlier, "b").startswith("refused: ")
        write_text(tmp_path / "state", "c")
        note = holder(tmp_path / ".lock.by")
        assert f"process {os.getpid()} " in note
        assert "restart 1" in note
        out, _ = earlier.communicate("d\n", timeout=60)  # it ends, and leaves the note of the later one
        assert out.startswith("refused: ")
        assert holder(tmp_path / ".lock.by") == note
        be(monkeypatch, in_job(0))  # the earlier instance, should it look once more
        with pytest.raises(Held, match="restart 1"), held(tmp_path / ".lock", tmp_path):
            pass
    assert (tmp_path / "state").read_text() == "c"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "state"]


def test_where_the_file_system_keeps_no_locks_the_note_is_reason_enough(earlier, monkeypatch, tmp_path):
    monkeypatch.setattr("filelock.FileLock._acquire", lambda self: setattr(self._context, "lock_file_fd", os.dup(2)))
    be(monkeypatch, in_job(1))
    with held(tmp_path / ".lock", tmp_path):
        assert asked_to_write(earlier, "b").startswith("refused: ")


def test_what_a_killed_process_leaves_does_no_harm(earlier, monkeypatch, tmp_path):
    earlier.kill()
    earlier.wait()
    assert (tmp_path / ".lock.by").exists()
    for me in ({}, in_job(1)):
        be(monkeypatch, me)
        with held(tmp_path / ".lock", tmp_path):
            write_text(tmp_path / "state", "c")
        assert not (tmp_path / ".lock.by").exists()


def test_a_lock_that_is_exchanged_while_it_is_taken_is_taken_anew(monkeypatch, tmp_path):
    acquire, exchanges = "filelock.FileLock.acquire", []

    taken = FileLock.acquire

    def exchanged_meanwhile(self):
        result = taken(self)
        if not exchanges:
            exchanges.append(self)
            (tmp_path / "new").touch()
            (tmp_path / "new").replace(tmp_path / ".lock")
        return result

    monkeypatch.setattr(acquire, exchanged_meanwhile)
    with held(tmp_path / ".lock", tmp_path):
        monkeypatch.undo()
        with pytest.raises(Held), held(tmp_path / ".lock", tmp_path):
            pass
        write_text(tmp_path / "state", "c")
    assert len(exchanges) == 1


def test_a_folder_that_was_made_anew_is_not_locked(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "first").touch()
    with guarding(folder, folder / "first"):
        (folder / "first").unlink()
        (folder / "first").touch()
        with pytest.raises(Removed), held(folder / ".lock", folder):
            pass
    assert not (folder / ".lock").exists()


def test_which_job_this_is(monkeypatch):
    for name in in_job(0):
        monkeypatch.delenv(name, raising=False)
    assert SlurmJob.current() is None
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert SlurmJob.current() == SlurmJob("17 of ?", 0)
    be(monkeypatch, in_job(2))
    assert str(SlurmJob.current()) == "Slurm job 12_3 of main, restart 2"
