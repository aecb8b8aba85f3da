"""The executor with children that are small scripts: deaths, silence, company, and what is shown meanwhile."""

import sys
from dataclasses import replace

import pytest
from filelock import FileLock

from easybn.evaluation.corruptions import CorruptionConfig
from easybn.runs.run import Run
from easybn.study.execute import BUSY, parallel, train_and_evaluate
from easybn.study.plan import CLEAN, Planned, Study, state
from easybn.study.state import State, StudyStatus, clear_failure, failure
from easybn.study.status import RemainingTime, StatusLines, status_table
from easybn.terminal import Terminal

from ..conftest import TINY
from .conftest import runs

COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def expected(planned: list[Planned]) -> list:
    return [run.expected for run in planned]


def silent(status: StudyStatus) -> None:
    pass


def test_a_death_is_one_runs_own(done, tmp_path):
    scripts = {"killed": KILLED, "silent": "pass", "wrong": "raise SystemExit(3)", "fine": COPY}

    def command(planned: Planned) -> list[str]:
        return [sys.executable, "-c", scripts[planned.name], str(done), str(tmp_path / "s" / planned.name)]

    states = parallel(runs(*scripts), tmp_path / "s", command, 2, silent)
    assert {name: state.kind for name, state in states.items()} == {
        "killed": "failed", "silent": "failed", "wrong": "failed", "fine": "done",
    }  # fmt: skip
    assert states["killed"].error == "killed (signal 9): out of memory? (no other run of this study was beside it)"
    assert states["silent"].error == "ended before everything was done"
    assert states["wrong"].error == "ended with status 3 and no message"

    def none(planned: Planned) -> list[str]:
        raise AssertionError("a process was started")

    assert parallel(runs(*scripts), tmp_path / "s", none, 2, silent) == states
    clear_failure(tmp_path / "s" / "killed")
    assert failure(tmp_path / "s" / "killed") is None
    scripts["killed"] = COPY
    assert parallel(runs(*scripts), tmp_path / "s", command, 2, silent)["killed"].kind == "done"


def test_what_others_are_at_is_waited_for_while_the_rest_is_done(done, tmp_path):
    folder = tmp_path / "s" / "theirs"
    folder.mkdir(parents=True)
    theirs, seen = FileLock(folder / ".lock"), []

    def on_status(status: StudyStatus) -> None:
        seen.append(set(status.elsewhere))
        if status.states["mine"].kind == "done" and theirs.is_locked:
            theirs.release()

    def command(planned: Planned) -> list[str]:
        assert not theirs.is_locked or planned.name == "mine"
        return [sys.executable, "-c", COPY, str(done), str(tmp_path / "s" / planned.name)]

    theirs.acquire()
    states = parallel(runs("theirs", "mine"), tmp_path / "s", command, 1, on_status)
    assert {state.kind for state in states.values()} == {"done"}
    assert {"theirs"} in seen
    assert seen[-1] == set()


def test_a_child_that_finds_another_at_work_has_not_failed(done, tmp_path):
    first = "import pathlib, sys; p = pathlib.Path(sys.argv[2], 'once'); done = p.exists(); p.touch()\n"
    script = f"{first}if not done: sys.exit({BUSY})\n{COPY}"
    words = [sys.executable, "-c", script, str(done), str(tmp_path / "s" / "a")]
    states = parallel(runs("a"), tmp_path / "s", lambda _: words, 1, silent)
    assert states["a"].kind == "done"


def test_two_runs_of_a_name():
    with pytest.raises(ValueError, match="2 runs of the study s are called a"):
        Study("s", tuple(runs("a", "b", "a")))


def status_of_five() -> tuple[list[Planned], StudyStatus]:
    """Four runs that differ in the seed, and one of another rate."""
    of_seed = [
        Planned(f"a-{seed}", replace(TINY, training=replace(TINY.training, epochs=4, seed=seed))) for seed in range(4)
    ]
    other = Planned("b-0", replace(TINY, training=replace(TINY.training, epochs=4, lr=0.3)))
    states = {
        "a-0": State("done", 4, 4, 1, 1, 40.0, {CLEAN.digest: 6.0}, 0.9),
        "a-1": State("training", 1, 4, 0, 1, 20.0, {}),
        "a-2": State("waiting", 0, 4, 0, 1, 0.0, {}),
        "a-3": State("failed", 0, 4, 0, 1, 0.0, {}, error="[no] memory"),
        "b-0": State("waiting", 0, 4, 0, 1, 0.0, {}),
    }
    return [*of_seed, other], StudyStatus(states, here={"a-1"})


def test_remaining_time_by_measured_speeds_alone():
    planned, seen = status_of_five()
    eta = RemainingTime(expected(planned), jobs=2)(seen)
    assert eta["a-0"] == eta["a-3"] == 0
    assert eta["a-1"] == 3 * 20 + 6  # its own speed
    assert eta["a-2"] == 4 * (10 + 20) / 2 + 6  # that of its siblings
    assert eta["b-0"] is None
    assert eta[""] is None
    seen.states["b-0"] = State("training", 2, 4, 0, 1, 10.0, {})
    assert RemainingTime(expected(planned), jobs=2)(seen)[""] == pytest.approx((66 + 66 + 10 + 6) / 2)


def test_the_table_and_the_lines_say_how_it_stands():
    planned, seen = status_of_five()
    console = Terminal(width=120, record=True, force_terminal=False, color_system=None)
    with console.capture() as caught:
        console.print(status_table(seen, RemainingTime(expected(planned), 1)(seen)))
    text = caught.get()
    for words in ("a-0", "90.00", "epoch 1 of 4", "failed", "1 of 5 done, 1 under way, 1 failed"):
        assert words in text
    few = status_table(seen, RemainingTime(expected(planned), 1)(seen), most=2)
    with console.capture() as caught:
        console.print(few)
    shown = caught.get()
    assert "a-1" in shown
    assert "a-3" in shown
    assert "a-0" not in shown
    lines = StatusLines(console)
    with console.capture() as caught:
        lines(seen)
        seen.states["a-1"] = State("training", 2, 4, 0, 1, 40.0, {})
        seen.elsewhere.add("b-0")
        lines(seen)
        lines(seen)
    told = [line.partition(" ")[2] for line in caught.get().splitlines()]
    assert told == [
        "a-1: epoch 1 of 4, 0.3 min",
        "a-3: failed: [no] memory",
        "a-1: epoch 2 of 4, 0.7 min",
        "b-0: busy elsewhere (waiting)",
    ]


def test_a_folder_removed_meanwhile_is_a_failure_and_stays_removed(tmp_path):
    script = "import shutil, sys; shutil.rmtree(sys.argv[1])"
    words = [sys.executable, "-c", script, str(tmp_path / "s" / "a")]
    states = parallel(runs("a"), tmp_path / "s", lambda _: words, 1, silent)
    assert states["a"].kind == "failed"
    assert "s/a was removed while a process was working in it" in states["a"].error
    assert not (tmp_path / "s" / "a").exists()


SHORT = """
import sys, time
from pathlib import Path
from easybn.study.state import record_failure
folder, log, others = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
with log.open("a") as file:
    file.write(f"begin {folder.name}\\n")
deadline = time.monotonic() + 60  # until all were started
while log.read_text().count("begin") < others and time.monotonic() < deadline:
    time.sleep(0.01)
record_failure(folder, "not enough memory: " + folder.name, memory=True)
with log.open("a") as file:
    file.write(f"end {folder.name}\\n")
sys.exit(1)
"""


def test_what_fails_alone_too_has_failed_and_nothing_ran_beside_it(done, tmp_path):
    """Two runs that never have enough memory, and one that is done, first all at once, then one by one."""
    log, out = tmp_path / "log", tmp_path / "s"
    wait = f"import time, sys\nwhile open(sys.argv[3]).read().count('begin') < 2: time.sleep(0.01)\n{COPY}"

    def command(planned: Planned) -> list[str]:
        if planned.name == "fine":
            return [sys.executable, "-c", wait, str(done), str(out / "fine"), str(log)]
        return [sys.executable, "-c", SHORT, str(out / planned.name), str(log), "2"]

    log.touch()
    seen: list[str] = []
    states = parallel(
        runs("a", "b", "fine"), out, command, 3, lambda status: seen.append(str(status.states["a"].retried))
    )
    assert states["fine"].kind == "done"
    for name in ("a", "b"):
        assert states[name].kind == "failed"
        assert states[name].error == f"not enough memory: {name} (no other run of this study was beside it)"
        assert states[name].retried == f"not enough memory: {name}"
    lines = log.read_text().split("\n")
    assert sorted(lines[:2]) == ["begin a", "begin b"]
    assert lines[4:8] in (["begin a", "end a", "begin b", "end b"], ["begin b", "end b", "begin a", "end a"])
    assert "not enough memory: a" in seen
    assert "tried again alone" in (out / "a" / "study.log").read_text()
    clear_failure(out / "a")
    cleared = state(runs("a")[0], out / "a")
    assert (cleared.kind, cleared.retried) == ("waiting", "")


def test_corruptions_are_measured_once(done):
    planned = Planned("done", TINY, (CLEAN, CorruptionConfig("generated", points=3)))
    assert state(planned, done).kind == "evaluating"
    train_and_evaluate(planned, done, device="cpu")
    assert state(planned, done).kind == "done"
    assert [row["attack"] for row in Run(done).scores] == ["clean", "corruptions"]
    assert len(Run(done).corruptions) == 75
    rows = Run(done).corruptions
    train_and_evaluate(planned, done, device="cpu")
    assert Run(done).corruptions == rows
