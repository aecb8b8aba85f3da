"""Models that are not one function from images to logits."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn.evaluation.diagnostics import diagnose
from easybn.evaluation.diagnostics.behaviour import (
    batch_company,
    dynamic,
    model_state,
    probabilities,
    randomised,
    spread,
    two_faced,
)

from ...small import small_images, small_net


def _severity(check, model, x, y) -> str:
    findings = diagnose(model, x, y, norm="linf", eps=8 / 255, checks={"check": check})
    assert len(findings) == 1
    return findings[0].severity


class Around(nn.Module):
    def __init__(self, net: nn.Module, forward) -> None:
        super().__init__()
        self.net, self.how = net, forward

    def forward(self, x):
        return self.how(self.net, x)


@pytest.mark.parametrize("noise", [0.5, 1e-2])
def test_a_randomised_model(trained, noise):
    model, x, y = trained
    assert _severity(randomised, Around(model, lambda f, x: f(x) + noise * torch.randn(len(x), 10)), x, y) == "warning"
    assert _severity(randomised, Around(model, lambda f, x: f(x + 1e-9 * torch.randn_like(x))), x, y) == "ok"
    assert _severity(randomised, model, x, y) == "ok"


def test_the_spread_is_that_of_directions():
    a = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert spread(a, 5 * a) == pytest.approx(0, abs=1e-9)
    assert spread(a, a.flip(1)) == pytest.approx(2**0.5)


def test_probabilities_and_their_logarithms(trained):
    model, x, y = trained
    assert _severity(probabilities, nn.Sequential(model, nn.Softmax(1)), x, y) == "warning"
    assert _severity(probabilities, nn.Sequential(model, nn.LogSoftmax(1)), x, y) == "ok"
    assert _severity(probabilities, nn.Sequential(model, nn.Sigmoid()), x, y) == "ok"
    assert _severity(probabilities, model, x, y) == "ok"


def _by_hidden_gradient(net, x):
    with torch.enable_grad():
        z = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(z).logsumexp(1).sum(), z)
    return net(x - 0.01 * slope.sign())


def _by_func(net, x):
    return net(x - torch.func.grad(lambda z: net(z).sum())(x))


def _by_learning(net, x):
    loss = -net(x.detach()).log_softmax(1).amax(1).mean()
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3)
    if loss.requires_grad:
        loss.backward()
        optimiser.step()
    return net(x)


def _by_counting(net, x):
    net[1].running_mean.add_(0.01)
    return net(x)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (_by_hidden_gradient, "backward pass"),
        (_by_func, "torch.func"),
        (_by_learning, "an optimiser takes a step"),
        (_by_counting, "1 tensor of the state changed, such as net.1.running_mean"),
    ],
)
def test_a_dynamic_model(how, told):
    model, x, y = Around(small_net(), how), small_images(10), torch.arange(10) % 4
    findings = diagnose(model, x, y, norm="linf", eps=0.1, checks={"dynamic": dynamic})
    assert [finding.severity for finding in findings] == ["warning"]
    assert told in findings[0].how_much


def _harmless(net, x):
    with torch.enable_grad():
        hidden = net[:3](x)
    return torch.utils.checkpoint.checkpoint(net[3:], hidden, use_reentrant=False)


@pytest.mark.parametrize("how", [lambda net, x: net(x), _harmless])
def test_models_that_only_predict(how):
    assert _severity(dynamic, Around(small_net(), how), small_images(10), torch.arange(10) % 4) == "ok"


def test_nothing_of_the_pass_that_is_watched_stays():
    """An operation that keeps its own result (relu, exp) is part of a circle that only autograd sees."""
    results = []

    def forward(net, x):
        results.append(weakref.ref(hidden := F.relu(x.flatten(1) @ weight)))
        return hidden.exp()

    weight = torch.full((3 * 8 * 8, 4), 0.01, requires_grad=True)
    x = small_images(10)
    assert x[0].numel() == len(weight)
    assert _severity(dynamic, Around(small_net(), forward), x, torch.arange(10) % 4) == "ok"
    gc.collect()
    assert len(results) > 1
    assert [result() for result in results] == [None] * len(results)


def test_another_answer_where_gradients_are_taken(trained):
    model, x, y = trained
    other = small_net(channels=1, classes=10)

    def two(net, x):
        return other(x[..., :8, :8]) if x.requires_grad else net(x)

    assert _severity(two_faced, Around(model, two), x, y) == "warning"
    assert _severity(two_faced, model, x, y) == "ok"


def test_how_the_model_was_found():
    x, y = small_images(10), torch.arange(10) % 4
    assert diagnose(small_net(), x, y, norm="l2", eps=0.5, checks={"as found": model_state}) == []
    (training,) = diagnose(small_net().train(), x, y, norm="l2", eps=0.5, checks={"as found": model_state})
    assert training.severity == "note"
    assert "train mode" in training.what
    assert training.remedy
    net = small_net()
    net[1] = nn.BatchNorm2d(6, track_running_stats=False)
    (batch,) = diagnose(net.eval(), x, y, norm="l2", eps=0.5, checks={"as found": model_state})
    assert batch.severity == "warning"
    assert batch.how_much == "predictions depend on the other images of the batch"


def test_masked_logits_do_not_hide_a_spread():
    a = torch.tensor([[3.0, 4.0, 7.0]])
    b = torch.tensor([[4.0, 3.0, 7.0]])
    for mask in (-torch.inf, -1e9, torch.finfo(torch.float32).min):
        masked = torch.tensor([[0.0, 0.0, mask]])
        assert spread(a + masked, a + masked) == 0
        assert spread(a + masked, b + masked) == pytest.approx(spread(a[:, :2], b[:, :2]))
    nothing = torch.tensor([[0.0, 0.0, torch.nan]])
    assert spread(a + nothing, b + nothing) == pytest.approx(spread(a[:, :2], b[:, :2]))
    assert spread(a + nothing, a) == torch.inf
    only_one = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert spread(a + only_one, a) > 1


@pytest.mark.parametrize("mask", [-torch.inf, -1e9, -1e4])
def test_a_model_with_masked_classes_is_one_function(trained, mask):
    model, x, y = trained
    away = torch.where(torch.arange(10) < 5, 0.0, mask)
    x, y = x[y < 5], y[y < 5]
    masked = Around(model, lambda net, z: net(z) + away).eval()
    findings = diagnose(masked, x, y, norm="linf", eps=8 / 255)
    assert {finding.name for finding in findings if not finding.fine} <= {"points"}
    noisy = Around(model, lambda net, z: net(z) + away + 0.1 * torch.randn(len(z), 10))
    assert _severity(randomised, noisy, x, y) == "warning"


def test_points_whose_logits_are_nan_are_counted_and_left_out(trained):
    model, x, y = trained
    dark = x.flatten(1).mean(1) < x.flatten(1).mean(1).median()

    def nan_where_dark(net, z):
        return net(z) + torch.where(z.flatten(1).mean(1) < x.flatten(1).mean(1).median(), torch.nan, 0.0)[:, None]

    findings = diagnose(Around(model, nan_where_dark).eval(), x, y, norm="linf", eps=8 / 255)
    told = {finding.name: finding for finding in findings if not finding.fine}
    assert told.keys() - {"points"} == {"finite logits"}
    assert told["finite logits"].how_much.startswith(f"{int(dark.sum())} of 200 points")


def _attention(net, x):
    z = net(x)
    return z + torch.softmax(z @ z.T, 1) @ z


MIXING = {
    "mean of the batch": lambda net, x: net(x - x.mean(0)),
    "mean of a channel": lambda net, x: net(x - x.mean((0, 2, 3), keepdim=True)),
    "batch norm without statistics": lambda net, x: F.batch_norm(net(x), None, None, training=True),
    "attention across the batch": _attention,
    "maximum over the batch": lambda net, x: net(x) - net(x).amax(0),
    "divided by the brightest": lambda net, x: net(x / x.max()),
    "number of images": lambda net, x: net(x) * torch.linspace(0, len(x), 10),
    "place in the batch": lambda net, x: net(x) + 0.1 * torch.arange(len(x))[:, None] * torch.arange(10),
    "large batches alone": lambda net, x: net(x - x.mean(0)) if len(x) > 100 else net(x),
}


@pytest.mark.parametrize("how", MIXING)
def test_an_answer_that_depends_on_the_rest_of_the_batch(trained, how):
    model, x, y = trained
    found = diagnose(
        Around(model, MIXING[how]), x, y, norm="linf", eps=8 / 255, checks={"company": batch_company, "r": randomised}
    )
    assert {finding.name: finding.severity for finding in found} == {"company": "warning", "randomised": "ok"}
    assert "of 16 predictions change, logits by" in found[0].how_much or "refused" in found[0].how_much


def test_the_figure_is_how_many_answers_change(trained):
    """A model that flips all answers where it has company: one by one all of them change."""
    model, x, y = trained
    found = diagnose(
        Around(model, lambda net, z: net(z) if len(z) == 1 else -net(z)),
        x, y, norm="linf", eps=8 / 255, checks={"company": batch_company},
    )  # fmt: skip
    assert found[0].how_much == "one by one 16 of 16 predictions change, logits by 2 (bound 0.01)"


def test_rounding_and_dice_are_no_company(trained):
    model, x, y = trained
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert _severity(batch_company, copy.deepcopy(model).to(dtype), x, y) == "ok"
    assert _severity(batch_company, Around(model, lambda net, z: net((z * 255).round() / 255)), x, y) == "ok"
    own = Around(model, lambda net, z: net(z - z.mean((1, 2, 3), keepdim=True)))
    assert _severity(batch_company, own, x, y) == "ok"
    dice = Around(model, lambda net, z: net(z) + torch.randn(len(z), 10))
    assert diagnose(dice, x, y, norm="linf", eps=8 / 255, checks={"company": batch_company}) == []


@pytest.mark.parametrize("given", [{"n": 1}, {"n": 200, "batch_size": 1}, {"n": 5, "batch_size": 3}])
def test_few_images_and_small_batches_tell_it_too(trained, given):
    model, x, y = trained
    n, how = given["n"], {name: value for name, value in given.items() if name != "n"}
    for forward, severity in ((lambda net, z: net(z - z.mean(0)), "warning"), (lambda net, z: net(z), "ok")):
        found = diagnose(
            Around(model, forward), x[:n], y[:n], norm="linf", eps=8 / 255, checks={"company": batch_company}, **how
        )
        assert [finding.severity for finding in found] == [severity]
