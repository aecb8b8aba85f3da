import json
import random

import pytest
import safetensors.torch
import torch
from torch import nn

from easybn import data
from easybn.json_files import Damaged, write_json
from easybn.models import BUILT_IN, build, load, save, trained
from easybn.models.weights import TrainedOn, check, trained_on


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
    with pytest.raises(ValueError, match="does not say of which model it is: pass the model too"):
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
    monkeypatch.setattr("easybn.models.weights.build", lambda **options: asked.append(options) or nn.Linear(2, 2))
    for option in ({"pretrained": True}, {"weights": "DEFAULT"}):
        save(nn.Linear(2, 2), tmp_path / "m.safetensors", {"name": "torchvision:resnet18", **option})
        load(tmp_path / "m.safetensors")
    assert len(asked) >= 2
    assert all(each == {"name": "torchvision:resnet18"} for each in asked)


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


def test_every_flipped_bit_and_every_cut_is_named_or_changes_nothing(tmp_path):
    torch.manual_seed(0)
    path, model = tmp_path / "m.safetensors", nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save(model, path, {"name": "x", "mean": [0.25]}, TrainedOn("mine", (1, 8, 9), ("a", "b")))
    whole, about = path.read_bytes(), trained_on(path)
    draw = random.Random(0)
    for place in draw.sample(range(8 * len(whole)), 600):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        fresh = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        try:
            load(path, fresh)
        except ValueError as error:
            told = str(error)
            assert str(path) in told
            continue
        assert all(
            torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True)
        )
        assert trained_on(path) in (about, None)  # None: the bit was in the name of the description
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"m\.safetensors (is|cannot be read)"):
            load(path, fresh)
        with pytest.raises(Damaged, match=r"m\.safetensors is no safetensors file, or damaged"):
            load(path)


def test_weights_beside_another_runs_config_are_refused(tmp_path):
    model, description = build("resnet_tiny", 2, 1), {"name": "resnet_tiny", "num_classes": 2, "in_channels": 1}
    save(model, tmp_path / "model.safetensors", description, run={"config": "abc", "epochs": 3})
    load(tmp_path)  # nothing to compare with
    write_json(tmp_path / "config.json", {"digest": "abc"})
    load(tmp_path)
    assert check(tmp_path) == {"config": "abc", "epochs": 3}
    write_json(tmp_path / "config.json", {"digest": "def"})
    for read in (load, check, trained_on):
        with pytest.raises(Damaged, match=r"is of another run than config.json beside it \(abc, not def\)"):
            read(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    load(tmp_path / "other.safetensors")


def test_weights_that_were_seen_whole_are_read_again_when_they_change(tmp_path):
    save(nn.Linear(2, 2), tmp_path / "model.safetensors")
    check(tmp_path)
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(Damaged, match="the checksum of its weights"):
        check(tmp_path)
