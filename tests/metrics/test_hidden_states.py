"""Relative distances, against closed forms."""

import pytest
import timm  # noqa: F401  (before a device is set: what it imports makes tensors)
import torch
from torch import nn

from easybn.keyed_random import Noise
from easybn.metrics.hidden_states import default_layers, named_layers, relative_distances, same_size_noise
from easybn.models import build
from easybn.norm.convert import convert
from easybn.perturb.ball import L2, Linf

from ..small import small_images, small_net

X = small_images(6, dtype=torch.float64)
MOVED = X + 0.1 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linear_net() -> nn.Sequential:
    torch.manual_seed(2)
    layers = [nn.Linear(inputs, outputs, bias=False) for inputs, outputs in ((192, 30), (30, 20), (20, 10))]
    return nn.Sequential(nn.Flatten(), *layers).double()


def distances(net, x=X, moved=MOVED):
    return {name: found["p"] for name, found in relative_distances(net, x, {"p": moved}, default_layers(net)).items()}


def test_a_linear_network_has_a_closed_form():
    net = linear_net()
    found = distances(net)
    assert list(found) == ["image", "1", "2", "logits"]  # layer 3 is the logits
    product = torch.eye(192, dtype=torch.float64)
    expected = {"image": product}
    for name, layer in (("1", net[1]), ("2", net[2]), ("logits", net[3])):
        expected[name] = product = layer.weight.detach() @ product
    for name, matrix in expected.items():
        for i in range(6):
            x, d = X[i].flatten(), (MOVED - X)[i].flatten()
            assert float(found[name][i]) == pytest.approx(float((matrix @ d).norm() / (matrix @ x).norm()), rel=1e-9)


class Scale(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x):
        return self.factor * x


def test_a_network_that_only_scales_keeps_the_distance():
    found = distances(nn.Sequential(Scale(3.0), Scale(-0.01), Scale(1e3), nn.Flatten()))
    assert len(found) == 5
    for values in found.values():
        assert torch.allclose(values, found["image"], rtol=1e-12)


def test_scaling_a_layer_changes_nothing():
    net = linear_net()
    before = distances(net)
    with torch.no_grad():
        net[2].weight *= -7.3
    after = distances(net)
    for name, values in before.items():
        assert torch.allclose(after[name], values, rtol=1e-12)


def test_each_image_is_measured_alone_in_eval_mode():
    net = small_net().double().train()
    statistics = net[1].running_mean.clone()
    together = distances(net)
    assert net.training
    assert torch.equal(net[1].running_mean, statistics)
    assert not any(module._forward_hooks for module in net.modules())
    for i in range(len(X)):
        alone = distances(net, X[i : i + 1], MOVED[i : i + 1])
        for name, values in together.items():
            assert torch.allclose(alone[name], values[i : i + 1], rtol=1e-9)


def test_a_layer_is_seen_before_the_next_one_changes_its_output_in_place():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.ReLU(inplace=True), nn.Linear(20, 3)).double()
    states = [net[1](each.flatten(1)) for each in (X, MOVED)]
    expected = (states[1] - states[0]).norm(dim=1) / states[0].norm(dim=1)
    assert torch.allclose(distances(net)["1"], expected, rtol=1e-9)


def test_of_all_zero_states():
    class Dead(nn.Module):
        def forward(self, x):
            return torch.relu(x.flatten(1) - torch.tensor([[2.0]], dtype=x.dtype))

    dead = Dead()
    moved = X.clone()
    moved[0] += 3
    found = relative_distances(dead, X, {"p": moved}, {})["logits"]["p"]
    assert found.tolist() == [float("inf"), 0, 0, 0, 0, 0]


def test_several_perturbations_at_once_are_those_one_by_one():
    net = small_net().double()
    layers = default_layers(net)
    both = relative_distances(net, X, {"a": MOVED, "b": X + 0.01, "none": X}, layers)
    for name, values in distances(net, X, X + 0.01).items():
        assert torch.allclose(both[name]["b"], values, rtol=1e-9)
        # a row may be computed in another order at another place of the batch
        assert both[name]["none"].tolist() == pytest.approx([0.0] * 6, abs=1e-12)


def test_an_output_without_a_row_an_image_is_refused():
    class Windows(nn.Module):
        def forward(self, x):
            return x.reshape(-1, 3)

    windows = Windows()
    with pytest.raises(ValueError, match=r"layer w: its output \(shape \(768, 3\)\) has no row per image"):
        relative_distances(nn.Sequential(windows), X, {"p": MOVED}, {"w": windows})


def test_noise_of_the_same_size_as_a_step():
    x = 0.3 + 0.4 * small_images(4)  # no pixel meets the ends of [0, 1]
    noise = Noise.of(0, "n", torch.arange(4))
    moved = (same_size_noise(Linf(8 / 255), x, noise) - x).abs()
    assert torch.allclose(moved, torch.full_like(moved, 8 / 255), atol=1e-6)
    lengths = (same_size_noise(L2(0.5), x, noise) - x).flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.full((4,), 0.5), atol=1e-5)
    at_the_ends = same_size_noise(Linf(0.5), small_images(4), noise)
    assert 0 <= at_the_ends.min() <= at_the_ends.max() <= 1


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("resnet_tiny", 3, "network.stages.0.0"),
        ("resnet18", 8, "network.stages.0.0"),
        ("timm:resnet18", 8, "network.layer1.0"),
        ("timm:mobilenetv3_small_100", 12, "network.blocks.0.0"),  # has squeeze-and-excitation inside its blocks
        ("torchvision:mobilenet_v3_small", 11, "network.features.1"),
        ("torchvision:vit_b_16", 12, "network.encoder.layers.encoder_layer_0"),
    ],
)
def test_the_blocks(name, count, first):
    with torch.device("meta"):  # no weights are needed
        layers = default_layers(build(name))
    assert len(layers) == count
    assert next(iter(layers)) == first


def test_a_plain_stack_has_its_layers_with_parameters():
    assert list(default_layers(small_net())) == ["0", "1", "4"]
    wrapped = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert list(default_layers(wrapped)) == ["1.0", "1.2"]


def test_branches_make_no_block_of_a_norm():
    model = build("resnet_tiny")
    assert list(default_layers(convert(model))) == list(default_layers(model))


def test_by_name():
    model = build("resnet_tiny")
    assert list(named_layers(model, ["network.linear", "network.stages.2"])) == ["network.linear", "network.stages.2"]
    with pytest.raises(ValueError, match=r"no layer 'network.stage.2' \(did you mean network.stages.2"):
        named_layers(model, ["network.stage.2"])
