"""The executor with children that are small scripts: deaths, silence, company, and what is shown meanwhile."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from easybn.evaluation.config import EvaluateConfig
from easybn.runs.evaluate import is_measured
from easybn.runs.run import Run
from easybn.study.execute import BUSY, StudyStatus, parallel
from easybn.study.plan import (
    CLEAN,
    Planned,
    State,
    Study,
    clear_failure,
    failure,
    record_evaluation,
    record_failure,
    state,
)
from easybn.study.status import RemainingTime, StatusLines, status_table
from easybn.terminal import Terminal

from ..conftest import TINY

COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2], dirs_exist_ok=True)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def done(finished_run: Run, tmp_path: Path) -> Path:
    """A folder in which TINY is done."""
    folder = tmp_path / "done"
    shutil.copytree(finished_run.folder, folder)
    Run(folder).add_scores([{"attack": "clean", "n": 1000, "correct": 300, "accuracy": 0.3, "branch": "main"}])
    record_evaluation(folder, CLEAN, 2.0, [])
    return folder


def runs(*names: str) -> list[Planned]:
    return [Planned(name, TINY) for name in names]


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
    assert states["killed"].error == "killed (signal 9): out of memory?"
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


def test_the_folder_alone_says_where_a_run_stands(done, tmp_path):
    (planned,) = runs("a")
    assert state(planned, tmp_path / "none").kind == "waiting"
    found = state(planned, done)
    assert (found.kind, found.epoch, found.measured, found.clean) == ("done", 2, 1, 0.3)
    assert found.seconds == pytest.approx(Run(done).metrics[-1]["seconds"] + 2.0)
    (done / "scores.jsonl").unlink()  # an evaluation without its rows is none
    assert (state(planned, done).kind, str(state(planned, done))) == ("evaluating", "evaluation 0 of 1")
    (done / "model.safetensors").unlink()
    assert (state(planned, done).kind, str(state(planned, done))) == ("training", "epoch 2 of 2")
    other = replace(planned, experiment=replace(TINY, training=replace(TINY.training, lr=0.3)))
    assert state(other, done).kind == "failed"
    assert "training.lr: 0.05 -> 0.3" in state(other, done).error
    record_failure(done, "no\nmemory")
    assert state(planned, done).error == "no memory"
    (done / "failed.json").unlink()
    (done / "config.json").write_text("{")
    assert "config.json is damaged" in state(planned, done).error


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
    eta = RemainingTime(planned, jobs=2)(seen)
    assert eta["a-0"] == eta["a-3"] == 0
    assert eta["a-1"] == 3 * 20 + 6  # its own speed
    assert eta["a-2"] == 4 * (10 + 20) / 2 + 6  # that of its siblings
    assert eta["b-0"] is None
    assert eta[""] is None
    seen.states["b-0"] = State("training", 2, 4, 0, 1, 10.0, {})
    assert RemainingTime(planned, jobs=2)(seen)[""] == pytest.approx((66 + 66 + 10 + 6) / 2)


def test_the_table_and_the_lines_say_how_it_stands():
    planned, seen = status_of_five()
    console = Terminal(width=120, record=True, force_terminal=False, color_system=None)
    with console.capture() as caught:
        console.print(status_table(seen, RemainingTime(planned, 1)(seen)))
    text = caught.get()
    for words in ("a-0", "90.00", "epoch 1 of 4", "failed", "1 of 5 done, 1 under way, 1 failed"):
        assert words in text
    few = status_table(seen, RemainingTime(planned, 1)(seen), most=2)
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "kind", "told"),
    [
        ("scores.jsonl", cut, "failed", "scores.jsonl, line 1 is damaged: it is cut off"),
        ("scores.jsonl", empty, "evaluating", ""),
        ("scores.jsonl", lambda path: path.write_text('{"attack": 1}\n'), "failed", "attack must be a text"),
        ("evaluated.json", empty, "failed", "evaluated.json is damaged"),
        ("evaluated.json", cut, "failed", "evaluated.json is damaged"),
        ("evaluated.json", Path.unlink, "evaluating", ""),
        ("model.safetensors", empty, "training", ""),
        ("model.safetensors", cut, "training", ""),
        ("metrics.jsonl", cut, "failed", "metrics.jsonl, line 2 is damaged: it is cut off"),
        ("config.json", empty, "failed", "config.json is damaged"),
        ("failed.json", empty, "failed", "failed.json is damaged, so why the run failed is not known: delete it"),
        ("failed.json", lambda path: path.write_text('{"log": 1}'), "failed", "failed.json is damaged"),
    ],
)  # fmt: skip
def test_done_means_that_all_is_there_and_whole(name, damage, kind, told, done):
    (planned,) = runs("a")
    assert state(planned, done).kind == "done"
    damage(done / name)
    found = state(planned, done)
    assert found.kind == kind
    assert told in found.error
    assert bool(found.error) == bool(told)
    assert not told or str(done) in found.error


def test_a_damaged_model_without_a_checkpoint_is_a_failure(done):
    (planned,) = runs("a")
    (done / "checkpoint.pt").unlink()
    empty(done / "model.safetensors")
    found = state(planned, done)
    assert found.kind == "failed"
    assert "model.safetensors is no safetensors file, or damaged" in found.error


CLEAN_ROW = {"attack": "clean", "n": 1000, "correct": 300, "branch": "main", "test_images": 1000}
PGD_ROW = {
    "attack": "pgd", "protocol": "strong", "norm": "l2", "eps": 0.5, "steps": 9, "n": 50, "test_images": 50,
    "points_seed": 0, "requested_batch_size": 100, "branch": "main", "correct": 1,
}  # fmt: skip


def test_an_evaluation_needs_its_own_rows():
    config = EvaluateConfig.of_run(eps=(0.5,), protocols=("strong",), steps=9, points=50)
    assert is_measured(config, [CLEAN_ROW, PGD_ROW])
    for row in (CLEAN_ROW, PGD_ROW):
        assert not is_measured(config, [row])
    assert not is_measured(replace(config, branch="easy"), [CLEAN_ROW, PGD_ROW])
    for name, value in (("eps", (0.5, 1.0)), ("steps", 8), ("norm", "linf"), ("points", 51), ("seed", 1)):
        assert not is_measured(replace(config, **{name: value}), [CLEAN_ROW, PGD_ROW]), name
    fewer = [{**CLEAN_ROW, "n": 50}, PGD_ROW]
    assert is_measured(replace(config, points=51), fewer), "there are no more images"
    old = {name: value for name, value in PGD_ROW.items() if name not in ("branch", "requested_batch_size")}
    assert is_measured(config, [CLEAN_ROW, old])
    assert not is_measured(replace(config, branch="easy"), [{**CLEAN_ROW, "branch": "easy"}, old])
    config = EvaluateConfig.of_run(["autoattack"], norm="linf", eps=(0.1,), points=50)
    row = {**PGD_ROW, "attack": "autoattack", "protocol": "standard", "norm": "linf", "eps": 0.1, "share": True}
    row |= {"requested_batch_size": 256, "budget": None}
    assert is_measured(config, [CLEAN_ROW, row])
    assert not is_measured(config, [CLEAN_ROW, {**row, "protocol": "plus"}])
    assert not is_measured(replace(config, precision="bf16"), [CLEAN_ROW, {**row, "precision": "float32"}])
    assert not is_measured(config, [CLEAN_ROW])
    assert is_measured(replace(config, budget=9.0), [CLEAN_ROW, {**row, "budget": 9.0, "test_images": 3}])


def test_a_folder_removed_meanwhile_is_a_failure_and_stays_removed(tmp_path):
    script = "import shutil, sys; shutil.rmtree(sys.argv[1])"
    words = [sys.executable, "-c", script, str(tmp_path / "s" / "a")]
    states = parallel(runs("a"), tmp_path / "s", lambda _: words, 1, silent)
    assert states["a"].kind == "failed"
    assert "s/a was removed while a process was working in it" in states["a"].error
    assert not (tmp_path / "s" / "a").exists()
