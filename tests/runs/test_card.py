import re

import torch

from easybn.models.weights import TrainedOn, trained_on
from easybn.runs.config import Experiment
from easybn.runs.export import card

from ..conftest import TINY


def rows(text):
    return dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", text, re.M))


def test_a_run_has_one(finished_run, monkeypatch):
    text = (finished_run.folder / "README.md").read_text()
    found = rows(text)
    about = trained_on(finished_run.folder)
    assert about == TrainedOn("sample", (1, 28, 28), about.classes)
    assert about.classes[1] == "Trouser"
    assert found["model"] == "resnet_tiny, 77,754 parameters"
    assert found["data"] == "sample, 100 of its training images"
    assert found["attack.ball.eps"] == str(1 / 255)
    assert found["attack.ball"] == "Linf"
    assert (found["epochs"], found["batch_size"], found["schedule"], found["seed"]) == ("2", "40", "Cosine", "1")
    assert found["validation"] == "0.2"
    last = finished_run.metrics[-1]
    for branch in ("main", "easy"):
        score = last["val"][branch]
        assert found[branch] == f"accuracy {score['accuracy']:.2%}, loss {score['loss']:.4f}"
    here = finished_run.sessions[-1]
    assert found["torch"] == here["packages"]["torch"]
    assert found["minutes"] == f"{last['seconds'] / 60:.2f}"
    assert TINY.digest in text
    assert "MIT licence" in text
    assert str(finished_run.folder.parent) not in text
    monkeypatch.chdir(finished_run.folder)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    space = {"x": torch.rand(2, 1, 28, 28)}
    exec(compile(code, "README.md", "exec"), space)
    assert space["logits"].shape == (2, 10)


def test_without_validation_and_with_a_bar_in_a_name():
    data = TrainedOn("mine", (3, 8, 8), ("a|b", "c"))
    text = card(Experiment(validation=0.0), data, torch.nn.Linear(2, 1), [{"epoch": 1, "seconds": 90.0}], [])
    assert "No image was held out." in text
    assert "a\\|b, c" in text
    assert "| minutes | 1.50 |" in text
    assert "its own terms. Check them" in text
