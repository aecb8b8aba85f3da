"""A block in which batch norms are folded: the same function, and nothing left behind."""

import copy

import pytest
import torch
from torch import nn

from easybn import PGD, Linf, convert, route
from easybn.models import build
from easybn.modes import evaluating
from easybn.norm.fold import folding
from easybn.perturb.goal import easy
from easybn.recipes import EBN
from easybn.train.step import take_step

from .test_fold import images, lively


def state(model):
    return {
        "values": {key: value.clone() for key, value in model.state_dict().items()},
        "identities": [id(each) for each in (*model.parameters(), *model.buffers(), *model.modules())],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


def assert_unchanged(model, before):
    after = state(model)
    torch.testing.assert_close(after.pop("values"), before.pop("values"), rtol=0, atol=0)
    assert after == before


def norms_run(model, x):
    """How many batch norms a pass goes through, by a count of their calls to the library."""
    count = 0

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal count
            count += function is nn.functional.batch_norm
            return function(*args, **(kwargs or {}))

    with Counting():
        model(x)
    return count


@pytest.mark.parametrize("branch", ["main", "easy"])
@pytest.mark.parametrize(("name", "size", "left"), [("resnet_tiny", 28, 0), ("timm:efficientnet_b0", 32, 0)])
def test_logits_and_gradients_are_the_same_and_all_is_found_again(name, size, left, branch):
    model = lively(convert(build(name), ["main", "easy"]))
    x = images(4, 3, size, size)
    before = state(model)
    with route(model, branch):
        for _ in range(2):  # the second time it knows the pairs
            answers = []
            for fold in (False, True):
                point = x.clone().requires_grad_()
                with folding(model) if fold else torch.enable_grad():
                    logits = model(point)
                    answers.append((logits, *torch.autograd.grad(logits.logsumexp(1).sum(), point)))
                    assert (norms_run(model, x) == left) == fold
            for a, b in zip(*answers, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * float(a.detach().abs().max()))
    assert_unchanged(model, before)


def test_the_weights_are_those_of_now():
    model, x = lively(build("resnet_tiny")), images(4, 3, 28, 28)
    with folding(model):
        model(x)
    with torch.no_grad():
        for each in (*model.parameters(), *model.buffers()):
            if each.is_floating_point():
                each.mul_(1.3)
    expected = model(x)
    with folding(model):
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10 * float(expected.detach().abs().max()))


class Twice(nn.Module):
    """The convolution's output is used beside the norm, which no hook can see."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        out = self.conv(x)
        return (self.bn(out) + out).mean((2, 3))


def test_an_output_with_two_uses_is_not_folded_even_while_the_statistics_are_fresh():
    model, x = Twice().double().eval(), images(3, 3, 8, 8)
    expected = model(x)
    for _ in range(2):
        with folding(model):
            assert torch.equal(model(x), expected)
            assert norms_run(model, x) == 1


def test_all_is_found_again_after_an_exception():
    model, x = lively(build("resnet_tiny")), images(2, 3, 28, 28)
    before = state(model)

    def stopped():
        with folding(model):
            model(x)
            raise RuntimeError("stop")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="stop"):
            stopped()
    assert_unchanged(model, before)


def test_without_a_pass_nothing_is_left_behind():
    model = lively(build("resnet_tiny"))
    before = state(model)
    with folding(model):
        pass
    assert_unchanged(model, before)


def test_train_mode_and_a_layer_changed_since():
    model, x = lively(build("resnet_tiny")), images(4, 3, 28, 28)
    with folding(model):
        model(x)
    model[-1].bn1 = lively(nn.BatchNorm2d(16))
    expected = model(x)
    with folding(model):
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10 * float(expected.detach().abs().max()))
    trained = copy.deepcopy(model).train()
    with folding(trained):
        assert norms_run(trained, x) == 9


def test_the_look_takes_no_random_numbers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5)).eval()

    class Noisy(nn.Module):
        def forward(self, x):
            return model(x) + torch.randn(())

    x = torch.rand(2, 3, 8, 8)
    model(x)
    noisy = Noisy()
    noisy.inner = model
    torch.manual_seed(0)
    expected = noisy(x)
    torch.manual_seed(0)
    with folding(noisy):
        assert torch.equal(noisy(x), expected)


def test_easy_examples_of_a_training_are_those_of_the_unfolded_model():
    torch.manual_seed(0)
    model = convert(build("resnet_tiny"), EBN.branches).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    recipe = EBN(attack=PGD(Linf(1 / 255)))
    for k in range(5):
        x, y = torch.rand(64, 3, 28, 28), torch.randint(0, 10, (64,))
        take_step(model, optimizer, lambda x=x, y=y: recipe(model, x, y))
        with route(model, "easy"), evaluating(model):
            plain = recipe.attack(model, x, easy(y))
            with folding(model):
                assert k == 0 or norms_run(model, x) == 0
                folded = recipe.attack(model, x, easy(y))
        agree = (plain.sub(x).sign() == folded.sub(x).sign()).double().mean()
        assert agree > 0.999, k
