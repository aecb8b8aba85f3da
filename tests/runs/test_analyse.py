"""Instruments on runs: rows once, branches where there is a checkpoint, nothing half-written."""

import shutil
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from easybn.json_files import read_rows
from easybn.metrics.instrument import Instrument, Measured, Plot
from easybn.metrics.registry import instruments
from easybn.rows import ANALYSIS
from easybn.runs.analyse import Analysis, analyse_run, rows_of
from easybn.runs.run import BusyError, Run
from easybn.runs.target import EvaluationTarget


@dataclass(frozen=True)
class Count(Instrument):
    """Counts images and branches."""

    times: float = 1.0
    value: float = 0.0
    name: ClassVar[str] = "count"
    title: ClassVar[str] = "Number of images"
    reads: ClassVar[str] = "Counts."
    images: ClassVar[int] = 7
    branches: ClassVar[bool] = True
    plots: ClassVar = (Plot("images", "images"),)
    asked: ClassVar[list[tuple[str, ...]]] = []

    def measure(self, subject, on_progress=None):
        self.asked.append(tuple(subject.models))
        on_progress(1, 1, "counting")
        n = len(subject.ids)
        return [Measured("images", name, "all", 0, n, self.times * n + self.value) for name in subject.models]


@pytest.fixture
def run(finished_run, tmp_path) -> Run:
    """A copy that may be written to."""
    Count.asked.clear()
    return Run(shutil.copytree(finished_run.folder, tmp_path / "run"))


def test_rows_say_what_was_measured_of_what(run):
    words = []
    target, analysis = EvaluationTarget.of_run(run), Analysis([Count(2.0)], seed=3)
    assert analyse_run(target, analysis, lambda *each: words.append(each), "cpu") == []
    rows = read_rows(run.folder / "analysis.jsonl", ANALYSIS)
    assert rows == rows_of(target, analysis)["count"]
    assert [row["series"] for row in rows] == ["main", "easy"]
    assert rows[0] == {
        "instrument": "count", "settings": {"times": 2.0, "value": 0.0}, "data": "sample", "branch": "main",
        "images": 7, "seed": 3, "branches": ["main", "easy"], "measure": "images", "series": "main", "place": "all",
        "depth": 0, "n": 7, "value": 14.0, "low": None, "high": None, "detail": {},
    }  # fmt: skip
    assert words == [(1, 1, "count, counting")]


def test_only_what_is_missing_is_measured(run):
    target, analysis = EvaluationTarget.of_run(run), Analysis([Count()])
    for _ in range(2):
        analyse_run(target, analysis, device="cpu")
    assert len(Count.asked) == 1
    changed = {7: replace(analysis, seed=1), 9: replace(analysis, images=9), 21: Analysis([Count(3.0)])}
    for value, other in changed.items():
        analyse_run(target, other, device="cpu")
        assert {row["value"] for row in rows_of(target, other)["count"]} == {value}
    analyse_run(target, replace(analysis, batch_size=1), device="cpu")
    assert len(Count.asked) == 4
    assert len(read_rows(run.folder / "analysis.jsonl", ANALYSIS)) == 8
    analyse_run(target, replace(analysis, images=10**6), device="cpu")
    assert rows_of(target, replace(analysis, images=10**6))["count"][0]["n"] == len(target.source.test)


def test_without_a_checkpoint_it_is_said_and_measured_again_once_it_is_there(run):
    target, analysis = EvaluationTarget.of_run(run), Analysis([Count()])
    kept = (run.folder / "checkpoint.pt").rename(run.folder / "kept")
    (note,) = analyse_run(target, analysis, device="cpu")
    assert note.startswith(f"{run.folder}: count: branches are not compared: there is no checkpoint.pt")
    assert [row["series"] for row in rows_of(target, analysis)["count"]] == ["main"]
    kept.rename(run.folder / "checkpoint.pt")
    assert analyse_run(target, analysis, device="cpu") == []
    assert [row["series"] for row in rows_of(target, analysis)["count"]] == ["main", "easy"]
    (run.folder / "checkpoint.pt").unlink()
    assert analyse_run(target, analysis, device="cpu") == []  # they are known
    assert Count.asked == [("main",), ("main", "easy")]


def test_a_branch_is_measured_by_itself(run):
    target, analysis = EvaluationTarget.of_run(run, "easy"), Analysis(instruments(["rank"]), images=20)
    (note,) = analyse_run(target, analysis, device="cpu")
    assert note.endswith("rank: branches are not compared: one branch was asked for")
    alone = rows_of(target, analysis)["rank"]
    main = EvaluationTarget.of_run(run)
    analyse_run(main, analysis, device="cpu")
    both = {(row["series"], row["measure"], row["place"]): row["value"] for row in rows_of(main, analysis)["rank"]}
    for row in alone:
        if row["series"]:
            assert row["series"] == row["branch"] == "easy"
            assert row["value"] == pytest.approx(both["easy", row["measure"], row["place"]], rel=1e-5)


def test_the_first_instrument_is_kept_if_the_second_fails(run):
    target = EvaluationTarget.of_run(run)
    with pytest.raises(ValueError, match="count: images at all is not finite: inf"):
        analyse_run(target, Analysis([Count(), Count(value=float("inf"))]), device="cpu")
    assert len(read_rows(run.folder / "analysis.jsonl", ANALYSIS)) == 2


def test_two_processes_do_not_write_at_once(run):
    with run.locked(), pytest.raises(BusyError):
        analyse_run(EvaluationTarget.of_run(run), Analysis([Count()]), device="cpu")
    assert not (run.folder / "analysis.jsonl").exists()


@pytest.mark.parametrize(("field", "value"), [("images", 1), ("batch_size", 0), ("seed", -1), ("instruments", [])])
def test_mistakes(field, value):
    with pytest.raises(ValueError, match=field):
        replace(Analysis([Count()]), **{field: value})


def test_the_images_are_those_that_the_seed_draws(run):
    target = EvaluationTarget.of_run(run)
    drawn = []

    @dataclass(frozen=True)
    class Ids(Count):
        name: ClassVar[str] = "ids"

        def measure(self, subject, on_progress=None):
            drawn.append(subject.ids)
            return [Measured("images", "", "all", 0, 1, 1.0)]

    for seed in (0, 0, 1):
        analyse_run(target, Analysis([Ids(float(len(drawn)))], seed=seed), device="cpu")
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
