"""A study from Python: here, by processes, threads and dask's workers; what fails, dies, stops or cannot be sent."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import pytest

import easybn
from easybn import EvaluateConfig, Experiment, Planned, Study, Training, run_study
from easybn.interrupt import Interrupted
from easybn.recipes import Vanilla
from easybn.runs.run import Run
from easybn.study.plan_file import read_plan
from easybn.study.state import StudyStatus, is_busy

SHORT = Experiment(train_images=80, validation=0.0, training=Training(epochs=1, batch_size=40))
WAITS = """
import os, time
from dataclasses import dataclass
from pathlib import Path
from easybn.recipes import Vanilla

@dataclass(frozen=True)
class Waits(Vanilla):
    folder: str = ""

    def __call__(self, *args, **options):
        Path(self.folder, f"begun-{os.getpid()}").touch()
        deadline = time.monotonic() + 120
        while not Path(self.folder, "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield from super().__call__(*args, **options)
"""


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Experiment]:
    """An experiment with a recipe of a user's file, which waits for the file ``go`` in its folder."""
    (tmp_path / "waits_for_go.py").write_text(WAITS)
    monkeypatch.syspath_prepend(tmp_path)
    recipe = importlib.import_module("waits_for_go").Waits(folder=str(tmp_path))
    yield replace(SHORT, recipe=recipe)
    del sys.modules["waits_for_go"]


def begun(folder: Path) -> list[int]:
    """Processes that have begun to train."""
    return sorted(int(path.name.removeprefix("begun-")) for path in folder.glob("begun-*"))


def study(**experiments: Experiment) -> Study:
    return Study("s", tuple(Planned(name, experiment) for name, experiment in experiments.items()))


def clean(folder: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in Run(folder).scores]


def test_here_one_after_the_other(tmp_path):
    lost = replace(SHORT, data="later")
    more = EvaluateConfig.of_run(points=4, steps=1, eps=(0.1,), protocols=("strong",))
    runs = (Planned("bad", lost), Planned("good", SHORT, (more,)))
    seen: list[StudyStatus] = []
    states = run_study(Study("s", runs), tmp_path / "s", device="cpu", on_status=seen.append)
    assert [states["bad"].kind, states["good"].kind] == ["failed", "done"]
    assert "unknown data set 'later'" in states["bad"].error
    assert [row["attack"] for row in Run(tmp_path / "s" / "good").scores] == ["clean", "pgd"]
    assert seen[-1].states == states
    assert read_plan(tmp_path / "s").runs == tuple(run.expected for run in runs)
    before = (tmp_path / "s" / "good" / "model.safetensors").stat()
    assert run_study(Study("s", runs), tmp_path / "s") == states  # nothing is done again
    assert (tmp_path / "s" / "good" / "model.safetensors").stat() == before


def test_processes_do_what_is_done_here_and_a_failure_takes_nothing_along(tmp_path, waits):
    (tmp_path / "go").touch()
    both = study(bad=replace(SHORT, data="later"), good=waits)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        states = run_study(both, tmp_path / "pool", pool, device="cpu", threads=1)
    assert [states["bad"].kind, states["good"].kind] == ["failed", "done"]
    assert "unknown data set 'later'" in states["bad"].error
    assert "unknown data set 'later'" in (tmp_path / "pool" / "bad" / "study.log").read_text()
    assert begun(tmp_path) != [os.getpid()]
    here = study(good=waits)
    assert run_study(here, tmp_path / "here", device="cpu")["good"].kind == "done"
    one, other = (tmp_path / name / "good" for name in ("pool", "here"))
    assert clean(one) == clean(other)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert {path.name for path in (tmp_path / "pool").iterdir()} == {"bad", "good", "study.json"}


def test_ctrl_c_cancels_what_has_not_begun_and_stops_what_has(tmp_path, waits):
    long, asked = replace(waits, training=Training(epochs=500, batch_size=40)), list[bool]()

    def on_status(status: StudyStatus) -> None:
        if begun(tmp_path) and not asked:
            asked.append(True)
            signal.raise_signal(signal.SIGINT)
            (tmp_path / "go").touch()

    with ThreadPoolExecutor(1) as pool, pytest.raises(Interrupted, match="everything done so far is saved"):
        run_study(study(a=long, b=long), tmp_path / "s", pool, device="cpu", on_status=on_status)
    assert len(begun(tmp_path)) == 1
    assert not (tmp_path / "s" / "b").exists()
    assert not is_busy(tmp_path / "s" / "a")
    assert not (tmp_path / "s" / "a" / "failed.json").exists()
    assert (tmp_path / "s" / "a" / "checkpoint.pt").exists()
    assert "stopped after step" in (tmp_path / "s" / "a" / "study.log").read_text()
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"a", "study.json"}


def test_a_pool_that_breaks_is_named_and_the_run_that_had_not_begun_has_not_failed(tmp_path, waits):
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    workers = [pool.submit(os.getpid).result()]

    def on_status(status: StudyStatus) -> None:
        while begun(tmp_path) and workers:
            os.kill(workers.pop(), signal.SIGKILL)
            (tmp_path / "go").touch()

    with pool, pytest.warns(UserWarning, match="the executor takes no more work: 1 of 2 runs are not done, such as b"):
        states = run_study(study(a=waits, b=waits), tmp_path / "s", pool, device="cpu", on_status=on_status)
    assert states["a"].kind == "failed"
    assert "its process was lost, and no more can be started: BrokenProcessPool" in states["a"].error
    assert states["b"].kind == "waiting"
    deadline = time.monotonic() + 60
    while is_busy(tmp_path / "s" / "a"):  # its process notices that its worker is gone
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Loses:
    """An executor whose worker dies under every task, so often, and then does as it should."""

    def __init__(self, times: int, folder: Path):
        self.times, self.folder, self.submitted = times, folder, 0

    def submit(self, function: object, *args: object) -> Future:
        future: Future = Future()
        self.submitted += 1
        if self.submitted <= self.times:
            future.set_exception(BrokenProcessPool("a worker died"))
        else:
            future.set_result(0)
        return future


def test_a_lost_worker_is_replaced_once(tmp_path):
    executor = Loses(9, tmp_path)
    (tmp_path / "s" / "a").mkdir(parents=True)
    states = run_study(study(a=SHORT), tmp_path / "s", executor, device="cpu")
    assert executor.submitted == 2
    assert states["a"].error == "its process was lost twice: BrokenProcessPool: a worker died"


@dataclass(frozen=True)
class Local(Vanilla):
    """A recipe in a module that other processes cannot import by its name."""


def test_what_cannot_be_sent_is_named_before_anything_starts(tmp_path, monkeypatch):
    class Inner(Vanilla):
        pass

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match=r"the run a cannot be sent to another process: .*Inner.* top level"):
            run_study(study(a=replace(SHORT, recipe=Inner())), tmp_path / "s", pool)
        monkeypatch.setattr(sys.modules["__main__"], "Local", Local, raising=False)
        monkeypatch.setattr(Local, "__module__", "__main__")
        with pytest.raises(ValueError, match="the run a needs Local, which is defined in the script itself"):
            run_study(study(a=replace(SHORT, recipe=Local())), tmp_path / "s", pool)
    with pytest.raises(TypeError, match="executor: int has no submit"):
        run_study(study(a=SHORT), tmp_path / "s", 4)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_code_that_is_not_where_the_run_is_done_fails_in_a_line(tmp_path, waits, monkeypatch):
    class Moved(ThreadPoolExecutor):
        def submit(self, *args: object, **options: object) -> Future:
            (tmp_path / "waits_for_go.py").unlink(missing_ok=True)
            return super().submit(*args, **options)

    with Moved(1) as pool:
        states = run_study(study(a=waits), tmp_path / "s", pool, device="cpu")
    assert states["a"].kind == "failed"
    assert "its code cannot be loaded on" in states["a"].error
    assert "waits_for_go.py" in states["a"].error


def test_public_names():
    assert {"run_study", "Study", "Planned", "Experiment", "EvaluateConfig"} <= set(easybn.__all__)
