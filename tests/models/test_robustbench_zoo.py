import importlib.util
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from easybn.models.robustbench_zoo import load_zoo_model

from ..with_robustbench.stand_in import installed

MARK = "ran"


class Evil:
    def __reduce__(self):
        return os.mkdir, (MARK,)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10))


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """RobustBench's stand-in with a model Doe2026Easy for CIFAR-10 and L2; the working folder is the test's."""
    monkeypatch.chdir(tmp_path)
    with installed(tmp_path / "installed", with_benchmark=True):
        from robustbench.model_zoo import model_dicts
        from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

        model_dicts[BenchmarkDataset.cifar_10][ThreatModel.L2]["Doe2026Easy"] = {"model": net, "gdrive_id": "1"}
        yield


def stored(content, path="models/cifar10/L2/Doe2026Easy.pt"):
    Path(path).parent.mkdir(parents=True)
    torch.save(content, path)


@pytest.mark.usefixtures("zoo")
def test_weights_in_robustbenchs_folder_or_in_another_one():
    given, x = net(), torch.rand(3, 3, 2, 2)
    stored(given.state_dict())
    model = load_zoo_model("Doe2026Easy", threat_model="L2")
    assert torch.equal(model(x), given(x))
    assert not model.training
    Path("models").rename("elsewhere")
    assert torch.equal(load_zoo_model("Doe2026Easy", "cifar10", "L2", "elsewhere")(x), given(x))


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("Doe2026Easy", "cifar10", "L2"), "its weights are not at models/cifar10/L2/Doe2026Easy.pt, and nothing is"),
        (("Doe2026Easy", "cifar10", "L2", "m"), "not at m/cifar10/L2/Doe2026Easy.pt"),
        (("Both2020",), "its weights are not at models/cifar10/Linf/Both2020.pt_m0.pt"),
        (
            ("Rice2020Overfiting",),
            "RobustBench has no model 'Rice2020Overfiting' for cifar10 and Linf; near it: Rice2020",
        ),
        (("Doe2026Easy", "cifar11"), "dataset must be one of cifar10, cifar100, imagenet, got 'cifar11'"),
        (("Doe2026Easy", "cifar10", "linf"), "threat_model must be one of Linf, L2, corruptions, corruptions_3d"),
        (("Doe2026Easy", "cifar100", "L2"), "RobustBench has no models for cifar100 and L2"),
        (("Cached2020",), "has its weights from timm or torchvision, which would download them"),
        (("Timm2020-S",), "has its weights from timm or torchvision, which would download them"),
    ],
)
def test_nothing_is_built_or_downloaded_where_the_weights_are_not_here(arguments, told):
    """The stand-in's models and its download raise AssertionError."""
    with pytest.raises(ValueError, match=re.escape(told)):
        load_zoo_model(*arguments)
    assert [path.name for path in Path().iterdir()] == ["installed"]  # RobustBench makes the folder of the weights


@pytest.mark.usefixtures("zoo")
def test_nothing_is_unpickled_whatever_the_environment_says(monkeypatch):
    stored({**net().state_dict(), "more": Evil()})
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match=r"Doe2026Easy\.pt cannot be loaded: it holds more than tensors"):
        load_zoo_model("Doe2026Easy", threat_model="L2")
    assert not Path(MARK).exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": 1}), None])
def test_files_that_do_not_fit_are_one_line(content):
    stored(nn.Linear(3, 3).state_dict())
    if content is not None:
        Path("models/cifar10/L2/Doe2026Easy.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"models/cifar10/L2/Doe2026Easy\.pt cannot be loaded: .+") as error:
        load_zoo_model("Doe2026Easy", threat_model="L2")
    assert "\n" not in str(error.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package robustbench: pip install 'easybn\[robustbench\]'"):
        load_zoo_model("Rice2020Overfitting")


def test_without_what_only_the_benchmark_needs_models_are_loaded_all_the_same(tmp_path):
    with installed(tmp_path):
        with pytest.raises(ValueError, match="its weights are not at"):
            load_zoo_model("Rice2020Overfitting")
        names = ("autoattack", "autoattack.state", "pkg_resources")  # of which the last may be installed
        assert all(sys.modules[name].__spec__ is not None for name in names if name in sys.modules)
        from robustbench import benchmark

        with pytest.raises(ImportError, match="benchmark needs AutoAttack: pip install git"):
            benchmark(None)


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path):
    with installed(tmp_path):
        (tmp_path / "robustbench/utils.py").write_text("import nothing_of_that_name")
        with pytest.raises(ValueError, match=r"cannot be imported \(No module named 'nothing_of_that_name'\)"):
            load_zoo_model("Rice2020Overfitting")
