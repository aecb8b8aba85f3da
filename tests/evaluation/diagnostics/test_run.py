"""The diagnosis as a whole: a healthy model has nothing to hear, and no model is changed or stops it."""

import copy

import pytest
import torch
from torch import nn

from easybn import convert
from easybn.evaluation import evaluate
from easybn.evaluation.diagnostics import CHECKS, Finding, diagnose
from easybn.evaluation.diagnostics.subject import share
from easybn.norm.convert import branches_of

from ...small import small_images, small_net


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", "8/255")])
def test_a_healthy_model_has_nothing_to_hear_but_that_the_points_are_few(trained, norm, eps):
    model, x, y = trained
    x, y = x[:60], y[:60]
    evaluation = evaluate(model, x, y, norm=norm, eps=eps, attacks="pgd", steps=10, keep_images=True)
    findings = evaluation.findings
    assert list(findings) == diagnose(model, x, y, norm=norm, eps=eps, evaluation=evaluation)
    assert {finding.name for finding in findings if not finding.fine} <= {"points"}
    made = {finding.name for finding in findings}
    assert made >= {"randomised", "outputs", "dynamic", "one function", "normalisation", "units", "saturation"}
    assert made >= {"zero gradients", "clamped pixels", "gradients of attacks", "perturbation", "rescored", "points"}
    assert "batch sizes" not in made  # which is about the robustness protocol
    assert [finding.fine for finding in findings] == sorted(finding.fine for finding in findings)


def test_a_finding_is_one_line():
    line = str(Finding("square", "warning", "it broke\n more", share(12, 1000), "gradients are masked", "look there"))
    assert line == (
        "warning  square: It broke more: 12 of 1,000 points (1.2%). Gradients are masked. Look there."
    )  # fmt: skip
    assert str(Finding("dynamic", "ok", "it predicts", "")) == "ok       dynamic: It predicts."


class Restless(nn.Module):
    """Changes a buffer, its weights, a gradient and its structure at every call, and throws dice."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("calls", torch.zeros(()))
        self.weight = nn.Parameter(torch.ones(3))
        self.weight.grad = torch.ones(3)

    def forward(self, x):
        self.calls += 1
        self.weight.data.add_(1)
        self.weight.grad.add_(1)
        self.net[4].bias.grad = torch.zeros(4)
        self.register_buffer("other", torch.rand(3))
        return self.net(x) + torch.rand(4)


def _snapshot(model: nn.Module) -> dict:
    state = {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    return {
        "state": state,
        "modes": [module.training for module in model.modules()],
        "learning": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "active": [getattr(module, "active", None) for module in model.modules()],
        "random": torch.random.get_rng_state(),
    }


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return bool(torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(one, other) for one, other in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_left_as_it_was_found(mode):
    model = Restless(convert(small_net(), ("main", "easy"))).train()
    model.net[2].eval()
    model.net[4].weight.requires_grad_(False)
    model.net[4].bias.grad = torch.ones(4)
    x, y = small_images(20), torch.arange(20) % 4
    before = _snapshot(model)
    with mode():
        findings = diagnose(model, x, y, norm="linf", eps=0.05)
    assert _equal(before, _snapshot(model))
    assert {"randomised", "dynamic", "as found"} <= {finding.name for finding in findings if not finding.fine}
    assert not any(finding.name == "failed checks" for finding in findings)


def test_it_says_the_same_again(trained):
    model, x, y = trained
    noisy = nn.Sequential(model, nn.Dropout(0.5))
    noisy[1].forward = lambda z: nn.functional.dropout(z, 0.5)
    first = diagnose(noisy, x, y, norm="linf", eps=0.1)
    torch.rand(3)
    assert diagnose(noisy, x, y, norm="linf", eps=0.1) == first


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such kernel\nand a long trace")


def test_what_fails_is_one_note_and_the_other_checks_are_made():
    findings = diagnose(Broken(), small_images(6), torch.zeros(6, dtype=torch.int64), norm="linf", eps=0.05)
    failed = [finding for finding in findings if finding.name == "failed checks"]
    assert len(failed) == 1
    assert failed[0].severity == "note"
    assert failed[0].how_much == "RuntimeError: no such kernel"
    assert all(name in failed[0].what for name in ("randomised", "dynamic", "saturation"))
    assert "units" in {finding.name for finding in findings}


@pytest.mark.parametrize(
    ("logits", "message"), [(torch.full((6, 3), torch.nan), "NaN"), (torch.zeros(6, 2), "labels must be in 0 .. 1")]
)
def test_a_model_that_does_not_fit_is_noted(logits, message):
    class Fixed(nn.Module):
        def forward(self, x):
            return logits[: len(x)] + 0 * x.sum()

    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    findings = diagnose(Fixed(), small_images(6), labels, norm="linf", eps=0.05)
    assert any(message in finding.how_much for finding in findings if finding.name == "failed checks")


def test_ones_own_checks_and_progress(trained):
    model, x, y = trained
    seen = []
    mine = {"mine": lambda subject: [Finding("mine", "note", "points", str(subject.n))]}
    found = diagnose(
        model, x, y, norm="l2", eps=[0.1, "1/2"], checks=mine, progress=lambda *report: seen.append(report)
    )
    assert [str(each) for each in found] == ["note     mine: Points: 200."]
    assert seen == [(0, 1, "diagnosis, mine"), (1, 1, "diagnosis")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"eps": -1}, "eps must be a positive number"),
        ({"eps": []}, "one radius or more"),
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"x": small_images(4) * 2}, "images must be in"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, r"labels must be integers of shape \(4,\)"),
    ],
)
def test_bad_input_is_refused(options, message):
    given = {"x": small_images(4), "y": torch.zeros(4, dtype=torch.int64), "norm": "l2", "eps": 0.5, **options}
    with pytest.raises(ValueError, match=message):
        diagnose(small_net(), **given)


def test_an_evaluation_of_other_points_is_refused(trained):
    model, x, y = trained
    evaluation = evaluate(model, x[:5], y[:5], attacks="clean")
    with pytest.raises(ValueError, match="the evaluation is of 5 points, and there are 200 images"):
        diagnose(model, x, y, norm="l2", eps=0.5, evaluation=evaluation)


def test_a_float64_model_is_welcome():
    model = copy.deepcopy(small_net()).double()
    findings = diagnose(model, small_images(20), torch.arange(20) % 4, norm="l2", eps=0.3)
    assert not any(finding.name == "failed checks" for finding in findings)


def test_every_check_has_its_own_name():
    assert len({check.__name__ for check in CHECKS.values()}) == len(CHECKS)
    with pytest.raises(ValueError, match="no branches"):
        branches_of(small_net())
