"""``easybn analyse`` from the command line."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from easybn.metrics.registry import INSTRUMENTS
from easybn.runs.evaluate import draw_test_points
from easybn.runs.run import Run
from easybn.runs.target import EvaluationTarget

QUICK = ("--instruments", "rank", "latent", "--images", "24", "--device", "cpu")


@pytest.fixture
def runs(finished_run) -> Path:
    """Two runs in the working folder, one of them without its checkpoint."""
    for name in ("a", "b"):
        shutil.copytree(finished_run.folder, Path("runs") / name)
    Path("runs/b/checkpoint.pt").unlink()
    return Path("runs")


def test_runs_side_by_side_in_80_columns_and_measured_once(runs, easybn, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = easybn("analyse", "runs", *QUICK)
    assert found.status == 0, found.err
    assert max(map(len, found.out.splitlines())) <= 80
    assert "Rank of representations (24 test images)" in found.out
    assert "Latent space (24 test images, eps 8/255, steps 1)" in found.out
    assert re.search(r"│ Layer +│ +a │ +a, easy │ +b │".replace("│", "[│┃]"), found.out)
    words = " ".join(found.out.split())
    assert re.search("Effective rank of channels at network.stages.2.0: highest [ab] ", words)
    assert "; their intervals overlap." in words  # of the same network
    for name in ("rank", "latent"):
        why = "branches are not compared: there is no checkpoint.pt, and the deployed model has one branch"
        assert f"runs/b: {name}: {why}" in words
    rows = [json.loads(line) for line in (runs / "a/analysis.jsonl").read_text().splitlines()]
    assert {row["instrument"] for row in rows} == {"rank", "latent"}
    before = (runs / "a/analysis.jsonl").read_bytes()
    everything = easybn("analyse", "runs", *QUICK, "--all", "--format", "markdown")
    assert (runs / "a/analysis.jsonl").read_bytes() == before
    assert "### Rank of representations (24 test images)" in everything.out
    assert "effective rank of weights" in everything.out
    assert "effective rank of weights" not in found.out
    comma = list(csv.reader(easybn("analyse", "runs", *QUICK, "--format", "csv").out.splitlines()))
    assert {len(line) for line in comma} == {10}
    assert comma[0][:4] == ["table", "row", "column", "text"]
    assert "table" not in [line[0] for line in comma[1:]]
    last = next(row for row in rows if row["place"] == "network.stages.2.0" and row["measure"].endswith("of_channels"))
    assert f"{last['value']:.6g}" in [line[4] for line in comma]


def test_the_list_needs_no_run(easybn):
    found = easybn("analyse", "--list")
    assert found.status == 0, found.err
    for name, kind in INSTRUMENTS.items():
        assert f"{name}: {kind.title}" in found.out
    assert "options: eps " in found.out
    assert "rank" not in easybn("analyse", "--list", "--instruments", "latent").out


def test_a_model_of_a_user(easybn):
    made = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    Path("linear.py").write_text(made)
    words = ("--model", "linear.py:make", "--data", "sample", "--out", "o", *QUICK)
    found = easybn("analyse", *words, "--options", "{latent: {eps: 4/255, steps: 2}}")
    assert found.status == 0, found.err
    rows = [json.loads(line) for line in Path("o/analysis.jsonl").read_text().splitlines()]
    settings = [row["settings"] for row in rows if row["instrument"] == "latent"]
    assert settings[0] == {"eps": 4 / 255, "steps": 2}
    assert {row["place"] for row in rows if row["measure"] == "effective_rank"} == {"image", "logits"}
    assert "branches are not compared" not in found.out


MINE = """
from dataclasses import dataclass
from easybn.metrics.instrument import Instrument, Measured, Plot

@dataclass(frozen=True)
class Brightness(Instrument):
    times: float = 1.0
    name, title, reads, plots = "brightness", "Brightness", "Mean of the images.", (Plot("mean", "mean"),)

    def measure(self, subject, on_progress=None):
        x = subject.split.batch(subject.ids)[0]
        return [Measured("mean", "", "image", 0, len(x), self.times * float(x.mean()))]

@dataclass(frozen=True)
class Rank2(Brightness):
    name = "rank"

class Half(Instrument):
    name = "half"
"""


def test_an_instrument_of_a_user(runs, easybn):
    Path("mine.py").write_text(MINE)
    words = ("--instruments", "mine.py:Brightness", "rank", "--images", "24", "--device", "cpu")
    found = easybn("analyse", "runs/a", *words, "--options", "{brightness: {times: 100.0}}")
    assert found.status == 0, found.err
    assert "Brightness (24 test images, times 100.0)" in found.out
    assert "Mean of the images." in found.out
    (row,) = (row for row in map(json.loads, (runs / "a/analysis.jsonl").read_text().splitlines())
              if row["instrument"] == "brightness")  # fmt: skip
    target = EvaluationTarget.of_run(Run(runs / "a"))
    x, _ = target.source.test.batch(draw_test_points(target.source, 24, 0))
    assert row["value"] == pytest.approx(100 * float(x.mean()))
    assert easybn("report", "runs", "-o", "report.html").status == 0  # which runs no code of it
    assert "brightness" in Path("report.html").read_text()
    for name, why in {
        "mine.py:Rank2": "--instruments mine.py:Rank2: another instrument is called 'rank': give it its own name",
        "mine.py:Half": "no instrument 'Half' in mine.py; it has Brightness, Rank2",
        "nose.py:Rank": "there is no file nose.py",
    }.items():
        found = easybn("analyse", "runs/a", "--instruments", name)
        assert (found.status, why in found.err) == (2, True), found.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "nothing to measure: name runs"),
        (("nowhere",), "no run in nowhere"),
        (("runs", "--instruments", "nose"), "no instrument 'nose'; there are "),
        (("runs", "--options", "{nose: {}}"), "no instrument 'nose'"),
        (("runs", "--options", "{latent: {eps: 0/255}}"), "eps must be a positive number"),
        (("runs", "--options", "{latent: {steps: many}}"), "latent: steps must be of the kind of 1, got 'many'"),
        (("runs", "--options", "{latent: {size: 3}}"), "latent has no option 'size'; there are eps, steps"),
        (("runs", "--instruments", "rank", "--options", "{latent: {}}"), "options of latent, which is not among"),
        (("runs", "--images", "1"), "images must be at least 2, got 1"),
        (("runs", "--images", "3", "--instruments", "latent"), "latent needs at least 4 images, got 3"),
        (("runs", "--branch", "nose"), "has no branch 'nose'"),
        (("runs", "--seed", "-1"), "seed must be at least 0"),
        (("runs", "--device", "tpu"), "tpu"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(words, told, finished_run, easybn):
    shutil.copytree(finished_run.folder, "runs/a")
    found = easybn("analyse", *words)
    assert found.status == 2
    assert told in found.err
    assert len(found.err.strip().splitlines()) == 1
    assert not Path("runs/a/analysis.jsonl").exists()


def test_a_damaged_row_is_named(runs, easybn):
    (runs / "a/analysis.jsonl").write_text('{"instrument": "rank"}\n')
    found = easybn("analyse", "runs/a", *QUICK)
    assert found.status == 2
    assert "runs/a/analysis.jsonl, line 1 is damaged: no settings" in found.err


def test_a_training_is_followed_by_the_networks_that_it_kept(easybn):
    train = ("train", "--recipe", "EBN", "--data", "sample", "--train_images", "80", "--batch_size", "40")
    train += ("--epochs", "2", "--device", "cpu", "--out", "runs/ebn")
    wrong = easybn(*train, "--keep_epochs", "1", "3")
    assert wrong.status == 2
    assert "keep_epochs: the training has epochs 1 to 2, got 3" in wrong.err
    assert not Path("runs").exists()
    assert easybn(*train, "--keep_epochs", "1", "2").status == 0
    words = ("analyse", "runs/ebn", "--instruments", "rank", "--images", "24", "--device", "cpu")
    found = easybn(*words, "--epochs")
    assert found.status == 0, found.err
    assert "Rank of representations, over the training (24 test images)" in found.out
    assert re.search("effective rank of channels at network.stages.2.0\n", found.out)
    rows = [json.loads(line) for line in Path("runs/ebn/analysis.jsonl").read_text().splitlines()]
    assert {row.get("epoch") for row in rows} == {None, 1, 2}
    assert "over the training" not in easybn(*words).out
