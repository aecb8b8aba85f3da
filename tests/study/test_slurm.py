"""Job arrays without a Slurm: what is asked for, what the queue's answer means, and the command in a job.

With a real Slurm: tests/cli/test_in_jobs.py.
"""

import os
import pickle
import signal
import stat
import sys
import threading
from pathlib import Path

import pytest

from easybn.interrupt import CHILD, Interrupted
from easybn.json_files import read_json
from easybn.study import in_jobs, slurm
from easybn.study.execute import BUSY
from easybn.study.in_jobs import evaluate_on_slurm
from easybn.study.slurm import Command, Queue, SlurmOptions, Task, check_available

from ..slurm import wait_until


class FakeSlurm:
    """Keeps what is submitted; its queue is what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.submitted: list[tuple[Path, list[Command]]] = []
        self.lines: list[str] | None = []
        self.looks = 0
        self.on_look = lambda: None
        monkeypatch.setattr(slurm, "_sbatch", self.sbatch)
        monkeypatch.setattr(in_jobs, "squeue", self.squeue)
        monkeypatch.setattr(in_jobs, "SHORTEST", 0.01)
        monkeypatch.setattr(in_jobs, "LONGEST", 0.01)
        monkeypatch.setattr(in_jobs, "GONE_SECONDS", 0.0)
        monkeypatch.setattr(in_jobs, "BUSY_SECONDS", 0.0)

    def sbatch(self, place: Path, commands: list[Command], options: SlurmOptions) -> str:
        self.submitted.append((place, commands))
        return str(len(self.submitted))

    def squeue(self) -> list[str] | None:
        self.looks += 1
        self.on_look()
        return self.lines

    def line(self, element: int, state: str = "RUNNING") -> str:
        """Of the last array."""
        number = len(self.submitted)
        return f"{number}_{element}|{element}|{state}|n1|{self.submitted[-1][0].name}"

    def ends(self, element: int, status: int, restart: int = 0) -> None:
        """A command notes how it ended."""
        place, _ = self.submitted[-1]
        report = {"job": "1 of test", "restart": restart, "status": status}
        (place / f"{element}-{restart}.json").write_text(str(report).replace("'", '"'))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(monkeypatch)


def tasks(folder: Path, count: int = 2) -> list[Task]:
    queue = Queue(folder / ".slurm", "some name, and more")
    return [Task(f"shard {i}", f"key {i}", ["true"], queue) for i in range(count)]


def test_what_ended_well_is_done_and_what_did_not_names_its_log(fake, tmp_path, capsys):
    def end() -> None:
        if fake.submitted and fake.looks == 3:
            fake.ends(0, 0)
            fake.ends(1, 1)
            fake.ends(1, 2, restart=10)  # the last instance counts, not the last to write
            (fake.submitted[0][0] / "1.log").write_text("lines\neasybn: error: no such data\n\n")

    fake.on_look = end
    failed = evaluate_on_slurm(tasks(tmp_path), SlurmOptions())
    assert list(failed) == ["shard 1"]
    assert failed["shard 1"].startswith("its Slurm job ended with status 2: easybn: error: no such data (log: ")
    place, commands = fake.submitted[0]
    assert len(fake.submitted) == 1
    assert len(commands) == 2
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    out = capsys.readouterr().out
    assert "submitted 2 of 2 as job 1 (to end it: scancel 1)" in out
    assert "shard 0: done" in out
    assert "shard 1: failed" in out


def test_a_job_that_never_began_the_command_is_told_by_its_own_log(fake, tmp_path):
    def end() -> None:
        if fake.submitted:
            (fake.submitted[0][0] / "1_0_log.out").write_text("Traceback\nModuleNotFoundError: No module named 'x'\n")

    fake.on_look = end
    failed = evaluate_on_slurm(tasks(tmp_path, 1), SlurmOptions())
    told = "its Slurm job ended without a word (cancelled, or killed?): ModuleNotFoundError: No module named 'x' (log: "
    assert failed["shard 0"].startswith(told)


def test_what_is_in_the_queue_is_not_submitted_again(fake, tmp_path):
    evaluate_on_slurm(tasks(tmp_path), SlurmOptions(), wait=False)
    fake.lines = [fake.line(1, "PENDING"), "77_0|0|RUNNING|n1|of another command", "78|N/A|RUNNING|n1|"]
    evaluate_on_slurm(tasks(tmp_path), SlurmOptions(), wait=False)
    assert [len(commands) for _, commands in fake.submitted] == [2, 1]
    fake.lines = [fake.lines[0], fake.line(0)]
    evaluate_on_slurm(tasks(tmp_path), SlurmOptions(), wait=False)
    assert len(fake.submitted) == 2


def test_a_command_that_was_killed_while_it_submitted_submits_nothing_twice(fake, tmp_path, monkeypatch):
    sbatch = slurm._sbatch

    def killed(*arguments: object) -> str:
        sbatch(*arguments)
        raise KeyboardInterrupt  # Slurm has them, and this process never hears of it

    monkeypatch.setattr(slurm, "_sbatch", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_on_slurm(tasks(tmp_path), SlurmOptions())
    fake.lines = [fake.line(0), fake.line(1, "PENDING")]
    evaluate_on_slurm(tasks(tmp_path), SlurmOptions(), wait=False)
    assert len(fake.submitted) == 1


def test_a_job_that_is_requeued_has_not_ended(fake, tmp_path):
    def go_on() -> None:
        if fake.submitted:
            states = {2: "RUNNING", 3: "PENDING", 4: "RUNNING"}
            fake.lines = [fake.line(0, states[fake.looks])] if fake.looks in states else []
            if fake.looks == 3:
                fake.ends(0, -9)
            if fake.looks == 5:
                fake.ends(0, 0, restart=1)

    fake.on_look = go_on
    assert evaluate_on_slurm(tasks(tmp_path, 1), SlurmOptions()) == {}
    assert len(fake.submitted) == 1


def test_where_another_process_was_at_work_the_task_is_submitted_again(fake, tmp_path):
    def end() -> None:
        if fake.submitted:
            fake.ends(0, BUSY if len(fake.submitted) == 1 else 0)

    fake.on_look = end
    assert evaluate_on_slurm(tasks(tmp_path, 1), SlurmOptions()) == {}
    assert len(fake.submitted) == 2


def test_a_queue_without_an_answer_says_nothing_of_jobs(fake, tmp_path, capsys):
    def answer() -> None:
        fake.lines = [fake.line(0)] if fake.submitted else []
        if 2 < fake.looks < 8:
            fake.lines = None
        if fake.looks == 8:
            fake.lines = []
            fake.ends(0, 0)

    fake.on_look = answer
    assert evaluate_on_slurm(tasks(tmp_path, 1), SlurmOptions()) == {}
    assert capsys.readouterr().err.count("squeue gives no answer") == 1
    fake.on_look, fake.lines = lambda: None, None
    with pytest.raises(OSError, match="squeue gives no answer"):
        evaluate_on_slurm(tasks(tmp_path / "other", 1), SlurmOptions())
    assert len(fake.submitted) == 1


def test_ctrl_c_leaves_the_jobs_and_says_how_to_end_them(fake, tmp_path):
    def interrupt() -> None:
        if fake.submitted:
            fake.lines = [fake.line(0)]
            signal.raise_signal(signal.SIGINT)

    fake.on_look = interrupt
    told = "the jobs go on: scancel 1 ends them; the same command shows them again"
    with pytest.raises(Interrupted, match=told):
        evaluate_on_slurm(tasks(tmp_path, 1), SlurmOptions())


def test_a_damaged_list_of_arrays_is_named(fake, tmp_path):
    (tmp_path / ".slurm").mkdir()
    (tmp_path / ".slurm/arrays.json").write_text("{")
    with pytest.raises(ValueError, match=r"arrays.json is damaged"):
        evaluate_on_slurm(tasks(tmp_path, 1), SlurmOptions())
    assert not fake.submitted


def test_more_tasks_than_an_array_may_have(fake, tmp_path):
    evaluate_on_slurm(tasks(tmp_path, slurm.ELEMENTS + 1), SlurmOptions(), wait=False)
    assert [len(commands) for _, commands in fake.submitted] == [slurm.ELEMENTS, 1]
    arrays = read_json(tmp_path / ".slurm/arrays.json")["arrays"]
    assert [array["tasks"][0] for array in arrays] == ["key 0", f"key {slurm.ELEMENTS}"]


def test_what_is_asked_of_sbatch():
    options = SlurmOptions("gpu", 90, 4, 1, 1.5, "acc", "a100", 8, ("qos=long", "exclusive"))
    found = options.parameters("name")
    extra = found.pop("additional_parameters")
    assert extra == {"requeue": True, "qos": "long", "exclusive": True}
    assert found == {
        "job_name": "name", "partition": "gpu", "time": 90, "cpus_per_task": 4, "gpus_per_node": 1, "mem": "1536M",
        "account": "acc", "constraint": "a100", "array_parallelism": 8, "srun_args": ["--cpus-per-task=4"],
        "stderr_to_stdout": True, "wckey": None,
    }  # fmt: skip
    assert set(SlurmOptions().parameters("name")) < set(found) | {"additional_parameters"}
    for wrong in ({"time": 0}, {"cpus": -1}, {"memory": float("nan")}, {"extra": ("--qos",)}, {"extra": ("a=b\nc",)}):
        with pytest.raises(ValueError, match=r"--slurm\.\w+"):
            SlurmOptions(**wrong)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="there is no sbatch on this machine"):
        check_available()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"needs submitit: pip install 'easybn\[slurm\]'"):
        check_available()


def child(tmp_path: Path, code: str) -> Command:
    return Command([sys.executable, "-c", code], tmp_path / "logs" / "log", tmp_path / "0")


def test_a_command_notes_how_it_ended_and_ends_with_its_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    code = f"import os, sys; print(os.environ['{CHILD}'], os.getsid(0) == os.getpid()); sys.exit(3)"
    command = child(tmp_path, code)
    assert pickle.loads(pickle.dumps(command)).__dict__ == command.__dict__
    assert command() == 3
    found = read_json(tmp_path / "0-2.json")
    assert (found["job"], found["status"]) == ("5 of ?", 3)
    said, printed = (tmp_path / "logs/log").read_text().splitlines()
    assert "restart 2" in said
    assert printed == "1 True"
    (tmp_path / "logs/log").unlink()
    (tmp_path / "logs/log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link: remove it"):
        command()


def test_before_it_is_preempted_a_command_saves_and_is_queued_as_it_was(tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    command, log = child(tmp_path, code), tmp_path / "logs/log"

    class Requeued(Exception):
        pass

    def handler(*_: object) -> None:  # as submitit's, which leaves by SystemExit
        delayed = command.checkpoint()
        assert delayed.function is command
        assert not pickle.loads(pickle.dumps(delayed.function))._child
        raise Requeued

    def preempt() -> None:
        wait_until(lambda: log.exists() and "\nready\n" in log.read_text(), "it is ready")
        os.kill(command._child.pid, signal.SIGUSR2)  # Slurm signals every process
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, handler)
    thread = threading.Thread(target=preempt)
    thread.start()
    try:
        with pytest.raises(Requeued):
            command()
    finally:
        signal.signal(signal.SIGUSR2, before)
        thread.join()
    assert "saved" in log.read_text()
    assert command._child.returncode == 143
    assert not list(tmp_path.glob("0-*.json")), "it has not ended"
