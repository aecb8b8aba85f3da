from functools import partial

import torch

from easybn.cli import train as demo_module
from easybn.cli.train import demo
from easybn.evaluation.config import EvaluateConfig
from easybn.runs import evaluate as evaluate_module
from easybn.runs.config import Experiment
from easybn.train.schedule import Training


def test_end_to_end_and_a_second_call_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "TRAINING", Training(epochs=1, batch_size=45, lr=0.1))
    monkeypatch.setattr(demo_module, "Experiment", partial(Experiment, train_images=100))
    monkeypatch.setattr(demo_module, "EVALUATION", EvaluateConfig.of_run(points=4, steps=2))
    runs = demo(tmp_path)
    assert [run.folder.name for run in runs] == ["vanilla", "advprop", "ebn"]
    assert all(run.finished for run in runs)
    # clean, and three radii under two protocols
    assert [len(run.scores) for run in runs] == [7, 7, 7]
    assert all(row["n"] == (1000 if row["attack"] == "clean" else 4) for run in runs for row in run.scores)

    def fail(*_, **__):
        raise AssertionError("done again")

    before = [(run.folder / "model.safetensors").stat().st_mtime_ns for run in runs], [run.scores for run in runs]
    monkeypatch.setattr(evaluate_module, "run_evaluation", fail)
    monkeypatch.setattr(torch.optim.SGD, "step", fail)
    again = demo(tmp_path)
    assert (
        [(run.folder / "model.safetensors").stat().st_mtime_ns for run in again],
        [r.scores for r in again],
    ) == before
