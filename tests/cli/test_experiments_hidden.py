"""``easybn hidden`` from the command line."""

import json
from pathlib import Path

import pytest

from easybn.recipes import EBN
from easybn.runs import hidden_states as hidden_module
from easybn.runs.config import Experiment
from easybn.runs.run import train
from easybn.train.schedule import Training

TINY = Experiment(recipe=EBN(), train_images=60, training=Training(epochs=1, batch_size=20))


def test_runs_side_by_side_and_measured_once(easybn, monkeypatch):
    for name in ("a", "b"):
        train(TINY, Path("runs") / name, device="cpu")
    Path("runs/b/checkpoint.pt").unlink()
    words = ("hidden", "runs", "--images", "40", "--device", "cpu")
    found = easybn(*words)
    assert found.status == 0, found.err
    rows = [json.loads(line) for line in Path("runs/a/hidden.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 * 5
    assert "untargeted, linf 8/255, 1 step" in found.out
    assert "runs/a: branches main, easy compared in runs/a/branches.jsonl" in found.out
    assert "runs/b: branches are not compared: there is no checkpoint.pt" in found.out
    assert Path("runs/a/branches.jsonl").exists()
    assert not Path("runs/b/branches.jsonl").exists()
    monkeypatch.setattr(hidden_module, "relative_distances", lambda *_: pytest.fail("measured again"))
    again = easybn(*words, "--eps", "8/255", "--format", "markdown")
    assert again.status == 0, again.err
    assert "| Layer | a | b |" in again.out
    for row in rows:
        shown = f" {100 * row['relative_distance']:.2f} ±"
        assert (shown in again.out) or row["eps"] != 8 / 255


def test_a_model_of_the_package(easybn):
    words = ("--images", "20", "--norm", "l2", "--eps", "0.5", "--perturbations", "easy", "--out", "o")
    found = easybn("hidden", "--model", "fashion-mnist-vanilla", *words)
    assert found.status == 0, found.err
    assert "easy, l2 0.5, 1 step" in found.out
    rows = [json.loads(line) for line in Path("o/hidden.jsonl").read_text().splitlines()]
    assert [row["layer"] for row in rows][::4] == ["image", "logits"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "nothing to measure"),
        ("nowhere", "no run in nowhere"),
        ("r --model fashion-mnist-vanilla", "--model is for a model of yours"),
        ("--model fashion-mnist-vanilla --branch easy", "--branch is for runs"),
        ("--model fashion-mnist-vanilla --images 1", "images must be at least 2, got 1"),
        ("--model fashion-mnist-vanilla --steps 0", "steps must be at least 1, got 0"),
        ("--model fashion-mnist-vanilla --eps 2", "l-infinity eps of 2"),
        ("--model fashion-mnist-vanilla --layers network.stage", "no layer 'network.stage'"),
        ("--model fashion-mnist-vanila --data sample", "unknown model 'fashion-mnist-vanila'"),
        ("--model fashion-mnist-vanilla --device tpux", "no device 'tpux' here"),
        ("--model fashion-mnist-vanilla --perturbations hard", "hard"),
        ("--model fashion-mnist-vanilla --image 3", "did you mean images"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, told, easybn):
    found = easybn("hidden", *words.split())
    assert found.status == 2
    assert told in found.err
    assert found.err.count("\n") == 1
    assert found.out.strip() == ""
    assert list(Path().iterdir()) == []
