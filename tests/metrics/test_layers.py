"""The blocks of networks of several makes."""

import pytest
import timm  # noqa: F401  (before a device is set: what it imports makes tensors)
import torch
from torch import nn

from easybn.metrics.hidden_states import default_layers, named_layers
from easybn.models import build
from easybn.norm.convert import convert

from ..small import small_net


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
