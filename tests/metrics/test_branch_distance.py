"""Distances of branches, against torch's own divergences and closed forms."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from easybn.metrics.hidden_states import EPS, branch_distances, relative_distance, symmetric_kl
from easybn.models import resnet_tiny
from easybn.norm.branched import BranchedNorm
from easybn.norm.convert import convert, strip


def test_the_divergence_is_torchs():
    generator = torch.Generator().manual_seed(0)
    mean_a, mean_b = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    var_a, var_b = torch.rand(2, 9, generator=generator, dtype=torch.float64) + 0.1
    a, b = Normal(mean_a, (var_a + EPS).sqrt()), Normal(mean_b, (var_b + EPS).sqrt())
    expected = (kl_divergence(a, b) + kl_divergence(b, a)) / 2
    assert torch.allclose(symmetric_kl(mean_a, var_a, mean_b, var_b), expected, rtol=1e-9)
    assert torch.allclose(symmetric_kl(mean_b, var_b, mean_a, var_a), expected, rtol=1e-9)


def test_a_channel_that_is_zero_for_both_has_no_distance():
    zero = torch.zeros(2)
    assert symmetric_kl(zero, zero, zero, zero).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3, 4], [3, 4], 0),
        ([0, 0], [0, 0], 0),
        ([1, 0], [-1, 0], 2),
        ([1, 0], [0, 0], 2**0.5),
        ([5, 0], [0, 5], 2**0.5),
    ],
)
def test_relative_distance(a, b, expected):
    a, b = (torch.tensor(each, dtype=torch.float32) for each in (a, b))
    assert relative_distance(a, b) == pytest.approx(expected)
    assert relative_distance(10 * b, 10 * a) == pytest.approx(expected)


def test_a_new_model_has_no_distance_and_every_norm_layer_its_rows():
    model = convert(resnet_tiny(4, 1), ("main", "adv", "easy"))
    found = list(branch_distances(model.state_dict()))
    layers = [name for name, module in model.named_modules() if isinstance(module, BranchedNorm)]
    assert list(dict.fromkeys(row.layer for row in found)) == layers
    assert {row.depth for row in found} == set(range(1, len(layers) + 1))
    pairs = {(row.branch_a, row.branch_b) for row in found}
    assert pairs == {("main", "adv"), ("main", "easy"), ("adv", "easy")}
    assert len(found) == len(layers) * 3 * 3
    assert {row.value for row in found} == {0.0}
    assert list(branch_distances(strip(model).state_dict())) == []


def test_what_was_moved_is_what_is_found():
    model = convert(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(5)), ("main", "adv"))
    norm = model[2].norms["adv"]
    norm.running_mean += 2.0
    with torch.no_grad():
        norm.weight[:] = 0
    values = {(row.layer, row.measure): row.value for row in branch_distances(model.state_dict())}
    assert values["2", "symmetric_kl"] == pytest.approx(4 / (2 * (1 + EPS)))  # d^2 / (2 v)
    assert values["2", "relative_weight"] == pytest.approx(2**0.5)
    assert [value for (layer, _), value in values.items() if layer == "0"] == [0, 0, 0]


def test_a_layer_norm_has_no_statistics():
    model = convert(nn.Sequential(nn.LayerNorm(4)), ("main", "easy"), "layer")
    assert {row.measure for row in branch_distances(model.state_dict())} == {"relative_weight", "relative_bias"}
