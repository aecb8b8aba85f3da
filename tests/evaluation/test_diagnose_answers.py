"""Models that are not one function from images to logits."""

import pytest
import torch
from torch import nn

from easybn.evaluation.diagnose import diagnose
from easybn.evaluation.diagnose.answers import probabilities, randomised, spread, two_faced
from easybn.evaluation.diagnose.as_found import as_found
from easybn.evaluation.diagnose.dynamic import dynamic

from ..small import small_images, small_net


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
        (_by_counting, "1 tensors of the state change, such as net.1.running_mean"),
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


def test_another_answer_where_gradients_are_taken(trained):
    model, x, y = trained
    other = small_net(channels=1, classes=10)

    def two(net, x):
        return other(x[..., :8, :8]) if x.requires_grad else net(x)

    assert _severity(two_faced, Around(model, two), x, y) == "warning"
    assert _severity(two_faced, model, x, y) == "ok"


def test_how_the_model_was_found():
    x, y = small_images(10), torch.arange(10) % 4
    assert diagnose(small_net(), x, y, norm="l2", eps=0.5, checks={"as found": as_found}) == []
    (training,) = diagnose(small_net().train(), x, y, norm="l2", eps=0.5, checks={"as found": as_found})
    assert training.severity == "note"
    assert "train mode" in training.what
    assert training.remedy
    net = small_net()
    net[1] = nn.BatchNorm2d(6, track_running_stats=False)
    (batch,) = diagnose(net.eval(), x, y, norm="l2", eps=0.5, checks={"as found": as_found})
    assert batch.severity == "warning"
    assert batch.how_much == "predictions depend on the other images of the batch"
