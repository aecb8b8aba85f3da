"""Saturation, gradients that are zero or not finite, and pixels that a clamp holds."""

import copy

import pytest
import torch
from torch import nn

from easybn.evaluation import evaluate
from easybn.evaluation.diagnostics import diagnose
from easybn.evaluation.diagnostics.gradient_masking import clamped, gradient_passes, saturation, zero_gradients
from easybn.evaluation.record import CLEAN, Record, Stage

from .test_behaviour import Around


def _findings(check, model, x, y, **how):
    return diagnose(model, x, y, norm="linf", eps=8 / 255, checks={"check": check}, **how)


class Margins(nn.Module):
    """Two logits whose difference is 1000 times the first pixel."""

    def forward(self, x):
        first = 1000 * x.flatten(1)[:, :1]
        return torch.cat((first, torch.zeros_like(first)), 1)


def test_saturated_points_are_counted():
    margins = torch.tensor([0.5, 5, 12, 15, 16.9, 17.5, 30, 110, 900, 950])
    x = torch.zeros(10, 1, 2, 2)
    x[:, 0, 0, 0] = margins / 1000
    (finding,) = _findings(saturation, Margins(), x, torch.zeros(10, dtype=torch.int64))
    assert finding.severity == "warning"
    # float32 rounds log(1 + exp(-m)) to 0 once exp(-m) is below half a unit of rounding of 1
    zero = sum(1 + 2.718281828459045 ** -float(m) - 1 <= 2**-24 for m in margins)
    assert f"exactly 0 for {zero} of 10" in finding.how_much
    assert "margin above 17 for 5 of 10" in finding.how_much


def test_saturation_of_a_trained_model_and_of_a_confident_one(trained):
    model, x, y = trained
    assert _findings(saturation, model, x, y)[0].fine
    (finding,) = _findings(saturation, Around(model, lambda net, z: 20 * net(z)), x, y)
    assert finding.severity == "warning"


def test_an_architecture_without_slope(trained):
    model, x, y = trained
    assert [each.severity for each in _findings(zero_gradients, model, x, y)] == ["ok"]
    (rounded,) = _findings(zero_gradients, Around(model, lambda net, z: net((z * 16).round() / 16)), x, y)
    assert rounded.severity == "warning"
    assert "200 of 200 points" in rounded.how_much
    (cut,) = _findings(zero_gradients, Around(model, lambda net, z: net(z.detach())), x, y)
    assert cut.severity == "warning"
    assert "no input gradient" in cut.what
    # saturated points have no gradient either, and are another finding
    assert _findings(zero_gradients, Around(model, lambda net, z: 1e4 * net(z)), x, y)[0].fine


def test_a_model_that_does_not_look_at_its_input(trained):
    model, x, y = trained
    for constant in (lambda net, z: 0 * net(z), lambda net, z: torch.ones(len(z), 10)):
        (finding,) = _findings(zero_gradients, Around(model, constant), x, y)
        assert (finding.severity, finding.what) == ("warning", "every image gets the same logits")
    for images in (x[:1], x[:1].expand(9, -1, -1, -1), 0 * x[:9]):  # one image says nothing about others
        assert _findings(zero_gradients, model, images, y[: len(images)])[0].what != "every image gets the same logits"


def test_one_flat_point_in_two_hundred_is_a_note(trained):
    model, x, y = trained
    bright = x.flatten(1).sum(1).argmax()

    def flat(net, z):
        dim = (z.flatten(1).sum(1) < x[bright].sum() - 1e-3).float().view(-1, 1, 1, 1)
        return net(z * dim + (1 - dim) * z.detach())

    (finding,) = _findings(zero_gradients, Around(model, flat), x, y)
    assert finding.severity == "note"
    assert "1 of 200 points" in finding.how_much


def test_gradients_that_are_not_finite(trained):
    model, x, y = trained
    steep = Around(model, lambda net, z: net(z) + 0 * z.flatten(1).sqrt().sum(1, keepdim=True))
    findings = {each.name: each for each in _findings(zero_gradients, steep, x, y)}
    touching = int((x == 0).flatten(1).any(1).sum())
    assert f"{touching} of 200" in findings["non-finite gradients"].how_much


def _record(zero: int, broken: int, passes: int = 100) -> Record:
    clean = Record.of(CLEAN, [0, 1], success=False, distance=float("inf"), forwards=1)
    stage = Stage("apgd-ce", 8 / 255)
    tried = Record.of(
        stage, [0, 1], success=False, distance=float("inf"), backwards=passes, zero_gradients=[zero, 0],
        non_finite=[0, broken],
    )  # fmt: skip
    return Record.joined([clean, tried])


@pytest.mark.parametrize(
    ("zero", "broken", "told"),
    [
        (0, 0, {"gradients of attacks": "ok"}),
        (1, 0, {"zero gradients of attacks": "note"}),
        (50, 1, {"zero gradients of attacks": "warning", "non-finite gradients of attacks": "note"}),
        (0, 2, {"non-finite gradients of attacks": "warning"}),
    ],
)
def test_gradients_of_the_attacks(trained, zero, broken, told):
    model, x, y = trained
    found = _findings(gradient_passes, model, x[:2], y[:2], record=_record(zero, broken))
    assert {each.name: each.severity for each in found} == told
    assert _findings(gradient_passes, model, x[:2], y[:2]) == []


def test_gradients_of_a_real_attack(trained):
    model, x, y = trained
    x, y = x[:20], y[:20]
    masked = Around(model, lambda net, z: net((z * 16).round() / 16))
    evaluation = evaluate(masked, x, y, norm="linf", eps=8 / 255, steps=3)
    (finding,) = _findings(gradient_passes, masked, x, y, evaluation=evaluation)
    assert finding.severity == "warning"
    assert "(100.0%)" in finding.how_much


def test_pixels_that_a_clamp_holds(trained):
    model, x, y = trained
    assert _findings(clamped, model, x, y)[0].fine
    held = nn.Sequential(nn.Hardtanh(0, 1), model)  # its derivative at 0 and 1 is 0 in every torch
    (finding,) = _findings(clamped, held, x, y)
    assert finding.severity == "warning"
    inside = (x * (1 - 2e-4) + 1e-4).requires_grad_()
    nn.functional.cross_entropy(model(inside), y, reduction="sum").backward()
    stuck = int((((x == 0) | (x == 1)) & (inside.grad != 0)).sum())
    assert f"{stuck:,} of {x.numel():,} pixels" in finding.how_much


def test_clamp_itself_as_this_torch_differentiates_it(trained):
    model, x, y = trained
    point = torch.zeros(1, requires_grad=True)
    point.clamp(0, 1).sum().backward()
    (finding,) = _findings(clamped, Around(model, lambda net, z: net(z.clamp(0, 1))), x, y)
    assert finding.fine == bool(point.grad)


def test_pixels_without_influence_are_not_held(trained):
    model, x, y = trained
    blind = copy.deepcopy(model)
    masked = Around(blind, lambda net, z: net(torch.nn.functional.pad(z[..., 2:-2, 2:-2], (2, 2, 2, 2))))
    assert _findings(clamped, masked, x, y)[0].fine


def test_black_images_under_a_relu_are_not_clamped(trained):
    """Zero pixels among zeros have no gradient through a relu of exactly 0; beside other pixels they have one."""
    _, x, y = trained
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    assert _findings(clamped, net, x, y)[0].fine
    assert not _findings(clamped, nn.Sequential(nn.Hardtanh(0, 1), net), x, y)[0].fine
