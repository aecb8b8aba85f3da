from typing import Any

import pytest
import torch
from torch import nn

from easybn import evaluating, frozen_stats
from easybn.modes import frozen_parameters, full_float32, repeatable_convolutions


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Sequential(nn.BatchNorm2d(4)))


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_evaluating_restores_each_modules_own_mode_also_after_an_exception():
    model = small().train()
    model[1].eval()  # frozen by the user
    before = modes(model)
    with evaluating(model):
        assert not any(modes(model))
        with evaluating(model):
            pass
        assert not any(modes(model))
    assert modes(model) == before
    with pytest.raises(KeyError):
        with evaluating(model):
            raise KeyError
    assert modes(model) == before


def test_evaluating_leaves_alone_a_train_method_that_does_things():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True):
            raise AssertionError("train() must not be called")

    model = nn.Sequential(Frozen(3))
    with evaluating(model):
        assert not model[0].training
    assert model[0].training


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)])
@pytest.mark.parametrize("mode", [True, False])
def test_frozen_stats_moves_nothing_and_changes_no_output(norm, mode):
    norm.train(mode)
    norm.running_mean += 0.5
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(4, 3, 5, 5)
    with frozen_stats(norm):
        frozen = norm(x)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())
    assert torch.equal(frozen, norm(x))  # what it would have given anyway
    if mode:
        assert not torch.equal(before["running_mean"], norm.running_mean)  # and now the statistics move


def test_frozen_stats_restores_what_it_found_also_after_an_exception():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False), nn.InstanceNorm1d(3))
    with pytest.raises(KeyError):
        with frozen_stats(model), frozen_stats(model):
            raise KeyError
    assert [m.track_running_stats for m in model] == [True, False, False]
    assert model[2].momentum == 0.1


def test_frozen_parameters_are_found_as_they_were_also_after_an_exception():
    model = small()
    model[0].weight.requires_grad = False  # frozen by the user
    before = [p.requires_grad for p in model.parameters()]
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    with frozen_parameters(model):
        assert not any(p.requires_grad for p in model.parameters())
        model[:2](x).square().sum().backward()
    assert [p.requires_grad for p in model.parameters()] == before
    with pytest.raises(KeyError):
        with frozen_parameters(model):
            raise KeyError
    assert [p.requires_grad for p in model.parameters()] == before
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("newer", [False, True], ids=["torch's older settings", "its newer ones"])
def test_full_float32_puts_the_callers_precision_back(newer):
    """Also the settings that torch's older interface cannot express, and refuses to read."""
    backends: Any = torch.backends
    if newer and not hasattr(backends.cudnn, "conv"):
        pytest.skip("no newer settings in this version: TF32 of CUDA as a switch alone")

    def read():
        if newer:
            return backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision
        return backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before, precise = read(), ("ieee", "ieee") if newer else (False, "highest")
    try:
        if newer:
            backends.cudnn.conv.fp32_precision = backends.cuda.matmul.fp32_precision = "tf32"
        else:
            torch.set_float32_matmul_precision("medium")
        found = read()
        with full_float32():
            assert read() == precise
        assert read() == found
    finally:
        if newer:
            backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision = before
        else:
            torch.set_float32_matmul_precision(before[1])


def test_repeatable_convolutions_are_those_of_the_block():
    with repeatable_convolutions():
        assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.deterministic
