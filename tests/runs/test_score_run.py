import shutil
from dataclasses import replace

import pytest
import torch

from easybn import data, models
from easybn.evaluation import evaluate
from easybn.keyed_random import permutation
from easybn.progress import progress_display
from easybn.runs import evaluate as score_run
from easybn.runs.evaluate import Measurement
from easybn.runs.run import BusyError, Run

HOW = Measurement(eps=(0.5, 0.1), points=12, steps=2, batch_size=5)


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def display():
    with progress_display() as progress:
        yield progress


def test_rows_are_what_evaluate_says(run, display):
    score_run.score(run, display, replace(HOW, seed=3))
    source, model = data.load("sample"), models.load(run.folder)
    clean, *attacked = run.scores
    x, y = source.test.batch(torch.arange(1000))
    with torch.no_grad():
        logits = model(x)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    close = int((first - second < 1e-4).sum())  # their class may depend on the size of the batch
    assert close < 10
    assert abs(clean["correct"] - int((logits.argmax(1) == y).sum())) <= close
    assert (clean["attack"], clean["n"], clean["data"], clean["branch"]) == ("clean", 1000, "sample", "main")
    points = permutation(1000, 3, "test points")[:12].sort().values
    assert torch.equal(score_run.test_points(source, 12, 3), points)
    assert len(score_run.test_points(source, 5000, 3)) == 1000
    x, y = source.test.batch(points)
    expected = []
    for protocol in ("robustness", "strong"):
        result = evaluate(model, x, y, eps=[0.1, 0.5], protocol=protocol, steps=2, batch_size=5)
        expected += [(protocol, e, 12, int(result.robust_at[e].sum())) for e in (0.1, 0.5)]
    assert [(row["protocol"], row["eps"], row["n"], row["correct"]) for row in attacked] == expected
    assert all(row["accuracy"] == row["correct"] / row["n"] for row in run.scores)


def test_what_is_known_is_not_measured_again(run, display, monkeypatch):
    score_run.score(run, display, HOW)
    rows = run.scores
    assert len(rows) == 5
    calls = []

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(score_run, "evaluate", spy)
    score_run.score(run, display, HOW)
    assert calls == []
    assert run.scores == rows
    score_run.score(run, display, replace(HOW, eps=(0.1, 1.0)))
    # only what is missing; under the strong protocol all radii, since what falls at one counts at the larger
    assert [(call["protocol"], call["eps"]) for call in calls] == [("robustness", [1.0]), ("strong", [0.1, 1.0])]
    for change in ({"points": 13}, {"steps": 3}, {"batch_size": 6}, {"seed": 1}, {"norm": "linf"}):
        calls.clear()
        score_run.score(run, display, replace(HOW, **change))
        assert len(calls) == 2, change
    assert run.scores[:5] == rows


def test_mistakes_are_told(run, display):
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        Measurement(points=0)
    with pytest.raises(BusyError), run.locked():
        score_run.score(run, display, HOW)
    (run.folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is the training finished"):
        score_run.score(run, display, HOW)
    assert run.scores == []
