import json

import pytest
import safetensors.torch
import torch
from torch import nn

from easybn import data
from easybn.models import BUILT_IN, build, load, save, trained
from easybn.models.weights import TrainedOn, trained_on


def disturbed(model: nn.Module) -> nn.Module:
    """With statistics unlike those of a new model."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked += 3
    return model


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_file_is_enough(name, tmp_path):
    description = {"name": name, "num_classes": 3, "in_channels": 1, "mean": [0.3], "std": [0.2]}
    model = disturbed(build(**description))
    save(model, tmp_path / "run" / "model.safetensors", description)
    for path in (tmp_path / "run", tmp_path / "run" / "model.safetensors", str(tmp_path / "run")):
        found = load(path)
        assert not any(module.training for module in found.modules())
        for key, value in model.state_dict().items():
            assert torch.equal(found.state_dict()[key], value), key
            assert found.state_dict()[key].dtype == value.dtype
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(found(x), model.eval()(x))


def user_model(classes: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(75, classes))


def test_a_users_module(tmp_path):
    model = disturbed(user_model()).to(memory_format=torch.channels_last)
    x = torch.rand(4, 1, 5, 5)
    model(x)
    save(model, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="does not say which model it is of: pass the model too"):
        load(tmp_path / "m.safetensors")
    other = user_model()
    assert load(tmp_path / "m.safetensors", other) is other
    torch.testing.assert_close(other(x), model.eval()(x))  # of another memory format: other kernels
    wrong = user_model(5)
    with pytest.raises(ValueError, match=r"m\.safetensors do not fit the model: 2 of another shape, such as 3\."):
        load(tmp_path / "m.safetensors", wrong)


def test_tied_weights_are_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    save(model, tmp_path / "m.safetensors")
    fresh = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    assert torch.equal(load(tmp_path / "m.safetensors", fresh)[1].weight, model[0].weight)


def test_nothing_is_downloaded_for_weights_that_are_in_the_file(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("easybn.models.build", lambda **options: asked.append(options) or nn.Linear(2, 2))
    for option in ({"pretrained": True}, {"weights": "DEFAULT"}):
        save(nn.Linear(2, 2), tmp_path / "m.safetensors", {"name": "torchvision:resnet18", **option})
        load(tmp_path / "m.safetensors")
    assert asked == [{"name": "torchvision:resnet18"}] * 2


def test_files_that_are_none_of_ours(tmp_path):
    with pytest.raises(FileNotFoundError, match="is the training finished"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load(tmp_path / "a.safetensors")
    path = tmp_path / "m.safetensors"
    for content in (b"", b"hello", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no safetensors file"):
            load(path)
    safetensors.torch.save_file({"w": torch.ones(1)}, path, {"easybn": json.dumps({"model": {"name": "resnet_tiny"}})})
    with pytest.raises(ValueError, match="do not fit the model"):
        load(path)
    safetensors.torch.save_file({"w": torch.ones(1)}, path, {"easybn": json.dumps({"model": {"name": "other"}})})
    with pytest.raises(ValueError, match="unknown model 'other'"):
        load(path)


def test_a_file_says_what_the_model_was_trained_on(tmp_path):
    description = {"name": "resnet_tiny", "num_classes": 2, "in_channels": 1}
    about = TrainedOn("mine", (1, 8, 9), ("é", "b"))
    save(build(**description), tmp_path / "model.safetensors", description, about)
    assert trained_on(tmp_path) == trained_on(tmp_path / "model.safetensors") == about
    assert load(tmp_path)(torch.rand(1, 1, 8, 9)).shape == (1, 2)
    save(build(**description), tmp_path / "old.safetensors", description)  # as files were written before
    assert trained_on(tmp_path / "old.safetensors") is None
    load(tmp_path / "old.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        trained_on(tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", ["fashion-mnist-vanilla", "fashion-mnist-adversarial"])
def test_the_models_of_the_package_are_small_and_trained(name):
    file = trained()[name]
    assert file.stat().st_size <= 350_000
    assert trained_on(name).name == "fashion-mnist"
    model, (x, y) = load(name), data.load("sample").test.batch(torch.arange(1000))
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).double().mean().item()
    assert accuracy > 0.87  # images of the test split: neither model saw them
    assert sorted(trained()) == sorted(path.stem for path in file.parent.glob("*.safetensors"))
    assert all(f"`{name}`" in (file.parent / "README.md").read_text() for name in trained())
