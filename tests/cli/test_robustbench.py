"""RobustBench both ways by commands; the package is a stand-in (tests/with_robustbench/stand_in.py)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from easybn import models
from easybn.data.image_folder import CIFAR10_CLASSES
from easybn.models.weights import TrainedOn
from easybn.runs.run import Run

from ..with_robustbench.stand_in import installed

DATA = """
import torch
def images():
    draw = torch.Generator().manual_seed(3)
    x, y = (torch.randint(0, n, s, generator=draw) for n, s in ((256, (40, 3, 32, 32)), (10, (40,))))
    y[:10] = torch.arange(10)
    return (x.byte(), y), (x.byte(), y)
"""
EVALUATE = ("--data", "my_images.py:images", "--attacks", "clean", "--points", "40", "--out", "e")


@pytest.fixture
def weights():
    """A weights file of an untrained network for CIFAR-10, whose answers differ."""
    about = {"name": "resnet_tiny", "num_classes": 10, "in_channels": 3}
    model = models.build(**about)
    with torch.no_grad():
        model.network.linear.weight.mul_(30)
    models.save(model, "m.safetensors", about, TrainedOn("cifar10", (3, 32, 32), CIFAR10_CLASSES))
    return model.eval()


def registered(folder: str) -> None:
    spec = importlib.util.spec_from_file_location("register", Path(folder) / "register.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.register()


def test_what_export_writes_evaluate_reads(weights, easybn):
    Path("my_images.py").write_text(DATA)
    found = easybn("export", "m.safetensors", "--robustbench", "out", "--name", "Doe2026Easy", "--threat_model", "L2")
    assert found.status == 0, found.err
    assert "written: out, model Doe2026Easy for cifar10, L2 at eps 0.5\n" in found.out
    assert "clean accuracy: not measured\nrobust accuracy: not measured\n" in found.out
    options = json.dumps({"threat_model": "L2", "model_dir": "out/models"})
    with installed(Path("installed")):
        from easybn.models.robustbench_zoo import load_zoo_model

        with pytest.raises(ValueError, match="has no model 'Doe2026Easy'"):
            load_zoo_model("Doe2026Easy")
        registered("out")
        found = easybn("evaluate", "--model", "robustbench:Doe2026Easy", "--model_options", options, *EVALUATE)
        assert found.status == 0, found.err
        (row,) = Run(Path("e")).scores
        namespace: dict = {}
        exec(DATA, namespace)
        x, y = namespace["images"]()[1]
        assert (row["n"], row["correct"]) == (40, int((weights(x / 255).argmax(1) == y).sum()))

        # the folder of results does not say where weights are loaded from, nor does it run code
        found = easybn("evaluate", "e", *EVALUATE[:-2])
        assert found.status == 2
        assert "repeat it: --model robustbench:Doe2026Easy --model_options" in found.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--weights m.safetensors",
            "has weights and a normalisation of its own: leave out --weights, --mean and --std",
        ),
        ("--mean 0 0 0 --std 1 1 1", "leave out --weights, --mean and --std"),
        (
            "--model_options {pretrained: true}",
            "takes the model_options dataset, threat_model, model_dir, not pretrained",
        ),
        ("--model_options {dataset: cifar}", "dataset must be one of cifar10, cifar100, imagenet, got 'cifar'"),
        ("", "Rice2020Overfitting.pt, and nothing is downloaded here: put them there"),
    ],
)
def test_mistakes(words, told, easybn):
    Path("my_images.py").write_text(DATA)
    options = [f"{{{words.partition('{')[2]}"] if "{" in words else []
    given = [*words.partition("{")[0].split(), *options]
    with installed(Path("installed")):
        found = easybn("evaluate", "--model", "robustbench:Rice2020Overfitting", *given, *EVALUATE)
    assert found.status == 2
    assert told in found.err
    assert found.err.count("\n") == 1
    assert not Path("e").exists()


def test_without_the_package_and_for_trainings(easybn, monkeypatch):
    found = easybn("train", "--model", "robustbench:Rice2020Overfitting", "--out", "r")
    assert (found.status, "unknown model 'robustbench:Rice2020Overfitting'" in found.err) == (2, True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    Path("my_images.py").write_text(DATA)
    found = easybn("evaluate", "--model", "robustbench:Rice2020Overfitting", *EVALUATE)
    assert (found.status, "pip install 'easybn[robustbench]'" in found.err) == (2, True)
    assert found.err.count("\n") == 1
