"""``easybn census`` and training without the easy ones, from the command line."""

import json
from pathlib import Path

import pytest

from easybn.cli.experiments import experiment_of
from easybn.paper import census as census_module
from easybn.perturb.ball import L2
from easybn.perturb.pgd import PGD
from easybn.recipes import AdvProp
from easybn.runs.config import Experiment
from easybn.runs.run import train
from easybn.train.schedule import Piecewise, Training

CONFIG = "recipe: Vanilla\ntrain_images: 200\nepochs: 3\nbatch_size: 10\nlr: 0.05\n"
WORDS = ("census", "small.yaml", "--seeds", "2", "--device", "cpu")


def test_counted_once_and_left_out(easybn, monkeypatch):
    Path("small.yaml").write_text(CONFIG)
    found = easybn(*WORDS, "--threshold", "0.3")
    assert found.status == 0, found.err
    folder = Path("runs/census/small")
    rows = [json.loads(line) for line in (folder / "census.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["n"], row["training_epochs"]) for row in rows] == [(0, 200, 3), (1, 200, 3)]
    (pair,) = [json.loads(line) for line in (folder / "overlap.jsonl").read_text().splitlines()]
    assert "Ankle boot" in found.out
    file = folder / "easy-above-0.3-epoch-1-seeds-2.json"
    assert f"easy in every seed: {file}" in found.out
    monkeypatch.setattr(census_module, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = easybn(*WORDS, "--threshold", "0.3", "--format", "markdown")
    assert again.status == 0, again.err
    shares = [100 * sum(row[name] for row in rows) / 400 for name in ("easy", "copies_easy")]
    line = next(line for line in again.out.splitlines() if line.startswith("| all |"))
    assert line.startswith(f"| all | 200 | {sum(row['easy'] for row in rows) / 2:,.0f} | {shares[0]:.1f} ±")
    assert f"| {shares[1]:.1f} ±" in line
    assert f"Jaccard {pair['jaccard']:.2f} ({pair['jaccard_by_chance']:.2f} by chance)" in again.out
    other = easybn(*WORDS, "--threshold", "0.1")
    assert other.status == 0, other.err
    left = json.loads((folder / "easy-above-0.1-epoch-1-seeds-2.json").read_text())["ids"]
    assert len(left) >= len(json.loads(file.read_text())["ids"])
    trained = easybn(
        *("train", "--config", "small.yaml", "--epochs", "1", "--device", "cpu", "--out", "without"),
        *("--leave_out", str(folder / "easy-above-0.1-epoch-1-seeds-2.json")),
    )
    assert trained.status == 0, trained.err
    described = json.loads(Path("without/config.json").read_text())["experiment"]
    assert described["leave_out"].endswith("easy-above-0.1-epoch-1-seeds-2.json")
    assert len(described["left_out"]) == 12


def test_a_runs_experiment_is_read_from_its_folder():
    Path("mine.py").write_text(
        "from dataclasses import dataclass\nfrom easybn.recipes import Vanilla\n"
        "@dataclass(frozen=True)\nclass Mine(Vanilla):\n    more: float = 1.0\n"
    )
    experiment = Experiment(
        recipe=AdvProp(attack=PGD(L2(0.25), steps=3), target="untargeted"),
        train_images=40,
        validation=0.25,
        model_options={},
        training=Training(epochs=1, batch_size=10, schedule=Piecewise(), ema=0.9, seed=5),
    )
    run = train(experiment, "some-run", device="cpu")
    assert experiment_of(str(run.folder)) == experiment


def test_a_folder_that_is_no_run_does_not_hide_a_config():
    Path("demo").mkdir()
    assert experiment_of("demo").training.epochs == 8
    Path("other").mkdir()
    with pytest.raises(FileNotFoundError, match="other is no run"):
        experiment_of("other")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("dmeo", "no config of the package (did you mean demo?)"),
        ("demo --threshold 1", "threshold is a confidence in [0, 1), got 1"),
        ("demo --seeds 0", "seeds must be at least 1, got 0"),
        ("demo --epochs 9", "epochs: 9 asked, the training has 8"),
        ("demo --eps 0", "eps must be a positive number"),
        ("demo --eps x", "eps"),
        ("demo --device tpux", "no device 'tpux' here"),
        ("demo demo", "two trainings are called demo"),
        ("demo --treshold 0.5", "did you mean threshold"),
        ("", "required: trainings"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, told, easybn):
    found = easybn("census", *words.split())
    assert found.status == 2
    assert told in found.err
    assert found.err.count("\n") == 1
    assert found.out.strip() == ""
    assert list(Path().iterdir()) == []


def test_ids_that_are_none(easybn):
    found = easybn("train", "--leave_out", "none.json")
    assert (found.status, found.err.count("\n")) == (2, 1)
    assert "there is no file none.json of sample ids (easybn census writes one)" in found.err
    assert list(Path().iterdir()) == []
