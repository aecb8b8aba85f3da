import shutil
from dataclasses import replace

import pytest
import torch

from easybn import data, models
from easybn.evaluation import evaluate
from easybn.evaluation.config import EvaluateConfig
from easybn.evaluation.evaluate import run_evaluation
from easybn.keyed_random import permutation
from easybn.runs import evaluate as module
from easybn.runs.evaluate import draw_test_points, evaluate_run
from easybn.runs.run import BusyError, Run
from easybn.runs.target import EvaluationTarget

HOW = EvaluateConfig.of_run(eps=(0.5, 0.1), points=12, steps=2, batch_size=5)


def measure(run, config):
    return evaluate_run(EvaluationTarget.of_run(run), config)


@pytest.fixture
def run(finished_run, tmp_path):
    shutil.copytree(finished_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def test_rows_are_what_evaluate_says(run):
    measure(run, replace(HOW, seed=3))
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
    assert torch.equal(draw_test_points(source, 12, 3), points)
    assert len(draw_test_points(source, 5000, 3)) == 1000
    x, y = source.test.batch(points)
    expected = []
    for protocol in ("robustness", "strong"):
        result = evaluate(model, x, y, eps=[0.1, 0.5], protocol=protocol, steps=2, batch_size=5)
        expected += [(protocol, e, 12, int(result.robust_at[e].sum())) for e in (0.1, 0.5)]
    assert [(row["protocol"], row["eps"], row["n"], row["correct"]) for row in attacked] == expected
    assert all(row["accuracy"] == row["correct"] / row["n"] for row in run.scores)


def test_what_is_known_is_not_measured_again(run, monkeypatch):
    how = replace(HOW, diagnosis=False)
    measure(run, how)
    rows = run.scores
    assert len(rows) == 5
    calls = []

    def spy(config, *args, **kwargs):
        calls.append((config.protocols, config.eps))
        return run_evaluation(config, *args, **kwargs)

    monkeypatch.setattr(module, "run_evaluation", spy)
    measure(run, how)
    assert calls == []
    assert run.scores == rows
    measure(run, replace(how, eps=(0.1, 1.0)))
    # only what is missing; under the strong protocol all radii, since what is broken at one counts at the larger
    assert calls == [(("robustness",), (1.0,)), (("strong",), (0.1, 1.0))]
    for change in ({"points": 13}, {"steps": 3}, {"batch_size": 6}, {"seed": 1}, {"norm": "linf"}):
        calls.clear()
        measure(run, replace(how, **change))
        assert len(calls) == 2, change
    assert run.scores[:5] == rows


def test_mistakes_are_told(run):
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        EvaluateConfig.of_run(points=0)
    with pytest.raises(BusyError), run.locked():
        measure(run, HOW)
    (run.folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is the training finished"):
        measure(run, HOW)
    assert run.scores == []
