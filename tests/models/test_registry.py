import pytest
import torch
import torchvision
from torch import nn

from easybn.models import BUILT_IN, Normalise, build, resnet18, resnet50


@pytest.mark.parametrize(("make", "parameters"), [(resnet18, 11_173_962), (resnet50, 23_520_842)])
def test_the_papers_networks_have_their_published_sizes(make, parameters):
    assert sum(p.numel() for p in make().parameters()) == parameters


@pytest.mark.parametrize(("ours", "theirs"), [(resnet18, "resnet18"), (resnet50, "resnet50")])
def test_equals_torchvisions_resnet_but_for_the_stem(ours, theirs):
    """torchvision's network with our stem and our weights, stage by stage in the same order, in float64."""
    torch.manual_seed(0)
    model = ours(num_classes=7).eval().double()
    peer = torchvision.models.get_model(theirs, num_classes=7).eval()
    peer.conv1, peer.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 1.5)
    state, names = model.state_dict(), list(peer.state_dict())
    groups = {"shortcut": "downsample", "stages.0": "layer1", "stages.1": "layer2", "stages.2": "layer3"}
    groups |= {"stages.3": "layer4", "linear": "fc"}
    renamed = {}
    for name, value in state.items():
        for old, new in groups.items():
            name = name.replace(old, new)
        renamed[name] = value
    assert sorted(renamed) == sorted(names)
    peer.double().load_state_dict(renamed)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(x), peer(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_built_in_models_take_small_images(name, channels, size):
    model = build(name, num_classes=3, in_channels=channels).eval()
    with torch.no_grad():
        out = model(torch.rand(2, channels, size, size))
    assert out.shape == (2, 3)
    assert isinstance(model[0], Normalise)


def test_normalise_is_what_torchvision_does():
    x, mean, std = torch.rand(2, 3, 4, 4), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    expected = torchvision.transforms.functional.normalize(x, mean, std)
    torch.testing.assert_close(Normalise(mean, std)(x), expected)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (0.2, 0.2)), ((), ())])
def test_normalise_refuses_statistics_that_do_not_fit(mean, std):
    with pytest.raises(ValueError, match="one number per channel"):
        Normalise(mean, std)


@pytest.mark.parametrize(
    ("name", "channels", "options"),
    [("timm:resnet10t", 1, {}), ("timm:vit_tiny_patch16_224", 3, {"img_size": 32}), ("torchvision:resnet18", 3, {})],
)
def test_models_of_other_libraries_by_name(name, channels, options):
    model = build(name, num_classes=4, in_channels=channels, **options).eval()
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "channels", "says"),
    [
        ("resnet-18", 3, r"unknown model 'resnet-18' \(did you mean resnet18\?\)"),
        ("timm:resnet1o8", 3, "timm has no model 'resnet1o8'; near it:"),
        ("torchvision:resnet19", 3, "torchvision has no model 'resnet19'; near it: resnet1"),
        ("torchvision:resnet18", 1, "takes 3 channels"),
        ("timm:", 3, "unknown model 'timm:'"),
    ],
)
def test_clear_errors(name, channels, says):
    with pytest.raises(ValueError, match=says):
        build(name, in_channels=channels)


class _Harmful:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('ran').touch()",))


def test_weights_in_torchs_cache_are_not_unpickled(tmp_path, monkeypatch):
    """torch.hub tests the checksum of a download, and never again that of the file which it keeps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    file = tmp_path / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save({"fc.bias": _Harmful()}, file)
    with pytest.raises(
        ValueError, match=r"torchvision:resnet18: the file of these weights in .* holds more than tensors"
    ):
        build("torchvision:resnet18", num_classes=1000, weights="DEFAULT")
    assert not (tmp_path / "ran").exists()
    torch.save(torchvision.models.resnet18().state_dict(), file)
    assert len(list(build("torchvision:resnet18", num_classes=1000, weights="DEFAULT").parameters())) == 62
