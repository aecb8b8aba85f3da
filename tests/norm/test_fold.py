import copy
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from easybn import convert, route
from easybn.models import build
from easybn.models.resnet import BasicBlock, ResNet
from easybn.norm.fold import folded


def lively(model: nn.Module) -> nn.Module:
    """In eval mode, float64, with statistics and affine parameters that make every norm do something."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 2)
            if norm.affine:
                norm.weight.data.uniform_(0.5, 1.5)
                norm.bias.data.normal_(0, 0.3)
    return model.eval().double()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_same(model, other, x):
    """In logits and input gradients, for images that the fold has not seen."""
    answers = []
    for m in (model, other):
        point = x.clone().requires_grad_()
        logits = m(point)
        answers.append((logits, torch.autograd.grad((logits * torch.linspace(-1, 1, logits.shape[1])).sum(), point)[0]))
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * float(a.detach().abs().max()))


@pytest.mark.parametrize(
    ("name", "size", "norms", "count"),
    [
        ("resnet_tiny", 28, 9, 9),
        ("resnet_small", 32, 9, 9),
        ("torchvision:resnet18", 48, 20, 20),
        ("torchvision:shufflenet_v2_x0_5", 48, 56, 56),
        ("timm:resnet10t", 48, 14, 14),
        ("timm:efficientnet_b0", 32, 49, 49),  # BatchNormAct2d
        ("timm:regnety_002", 48, 44, 44),  # BatchNormAct2d
        ("timm:densenet121", 48, 121, 59),  # half of its norms come before their convolution
    ],
)
def test_equals_the_model_in_float64(name, size, norms, count):
    model = lively(build(name))
    fold = folded(model, images(2, 3, size, size))
    assert (fold.folded, fold.norms) == (count, norms)
    assert_same(model, fold.model, images(4, 3, size, size))


def test_a_wide_resnet_with_a_narrow_body():
    model = lively(ResNet(BasicBlock, (2, 2, 2, 2), (4, 8, 16, 32)))
    fold = folded(model, images(1, 3, 32, 32))
    assert (fold.folded, fold.norms) == (20, 20)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fold.model.modules())
    assert_same(model, fold.model, images(3, 3, 32, 32))


class Net(nn.Module):
    """Layers as keyword arguments, and what the forward pass does with them."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, x):
        return self.run(self, x).flatten(2).mean(2)


def conv(inputs=3, **options):
    return nn.Conv2d(inputs, 3, 3, padding=1, **options)


def shared_weight():
    net = Net(lambda m, x: m.n(m.b(m.a(x))), a=conv(), b=conv(), n=nn.BatchNorm2d(3))
    net.a.weight = net.b.weight
    return net


def parametrised():
    net = Net(lambda m, x: m.n(m.c(x)), c=conv(), n=nn.BatchNorm2d(3))
    parametrize.register_parametrization(net.c, "weight", nn.Tanh())
    return net


def hooked(on):
    net = Net(lambda m, x: m.n(m.c(x)), c=conv(), n=nn.BatchNorm2d(3))
    getattr(net, on).register_forward_hook(lambda module, args, output: output.tanh())
    return net


def own_forward():
    net = Net(lambda m, x: m.n(m.c(x)), c=conv(), n=nn.BatchNorm2d(3))
    net.c.forward = torch.tanh
    return net


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


LEFT_ALONE = {
    "norm_first": (lambda: Net(lambda m, x: m.c(m.n(x).relu()), c=conv(), n=nn.BatchNorm2d(3)), 1),
    "conv_twice": (lambda: Net(lambda m, x: m.n(m.c(m.c(x))), c=conv(), n=nn.BatchNorm2d(3)), 1),
    "conv_twice_skip": (lambda: Net(lambda m, x: m.n(m.c(x)) + m.c(x), c=conv(), n=nn.BatchNorm2d(3)), 1),
    "shared_norm": (lambda: Net(lambda m, x: m.n(m.b(m.n(m.a(x)))), a=conv(), b=conv(), n=nn.BatchNorm2d(3)), 1),
    "relu_between": (lambda: Net(lambda m, x: m.n(m.c(x).relu_()), c=conv(), n=nn.BatchNorm2d(3)), 1),
    "sum_between": (lambda: Net(lambda m, x: m.n(m.c(x).add_(x)), c=conv(), n=nn.BatchNorm2d(3)), 1),
    "two_norms": (
        lambda: Net(lambda m, x: [m.n(z := m.c(x)), m.k(z)][1], c=conv(), n=nn.BatchNorm2d(3), k=nn.BatchNorm2d(3)),
        2,
    ),
    "transposed": (lambda: Net(lambda m, x: m.n(m.c(x)), c=nn.ConvTranspose2d(3, 3, 3), n=nn.BatchNorm2d(3)), 1),
    "subclass": (lambda: Net(lambda m, x: m.n(m.c(x)), c=Doubled(3, 3, 3), n=nn.BatchNorm2d(3)), 1),
    "no_statistics": (
        lambda: Net(lambda m, x: m.n(m.c(x)), c=conv(), n=nn.BatchNorm2d(3, track_running_stats=False)),
        1,
    ),
    "instance_norm": (lambda: Net(lambda m, x: m.n(m.c(x)), c=conv(), n=nn.InstanceNorm2d(3)), 0),
    "no_norm": (lambda: Net(lambda m, x: m.c(x).relu(), c=conv()), 0),
    "unused_norm": (lambda: Net(lambda m, x: m.c(x).relu(), c=conv(), unused=nn.BatchNorm2d(3)), 0),
    "shared_weight": (shared_weight, 1),
    "parametrised": (parametrised, 1),
    "hook_on_conv": (lambda: hooked("c"), 1),
    "hook_on_norm": (lambda: hooked("n"), 1),
    "own_forward": (own_forward, 1),
}


@pytest.mark.parametrize(("net", "norms"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_left_alone(net, norms):
    model = lively(net())
    fold = folded(model, images(2, 3, 8, 8))
    assert (fold.folded, fold.norms) == (0, norms)
    assert_same(model, fold.model, images(5, 3, 8, 8))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)], (5,)),
        ([nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, affine=False)], (5,)),
        ([nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)], (2, 8)),
        ([nn.Conv2d(2, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4), nn.Flatten()], (2, 4, 4)),
        ([nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.Flatten()], (2, 4, 4)),
    ],
)
def test_the_kinds_of_layers(layers, shape):
    model = lively(nn.Sequential(*layers))
    fold = folded(model, images(2, *shape))
    assert (fold.folded, fold.norms) == (1, 1)
    assert_same(model, fold.model, images(6, *shape))


def test_a_linear_layer_on_tokens_has_its_features_elsewhere():
    # as many tokens as features: the norm's channels are the tokens, the layer's outputs the features
    model = lively(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Flatten()))
    fold = folded(model, images(2, 4, 4))
    assert fold.folded == 0
    assert_same(model, fold.model, images(3, 4, 4))


def test_a_norm_that_two_parents_hold():
    norm = nn.BatchNorm2d(3)
    model = lively(Net(lambda m, x: m.a(m.c(x)), c=conv(), a=norm, b=norm))
    fold = folded(model, images(2, 3, 8, 8))
    assert fold.folded == 1
    assert isinstance(fold.model.a, nn.Identity)
    assert fold.model.a is fold.model.b
    assert_same(model, fold.model, images(3, 3, 8, 8))


@pytest.mark.parametrize("branch", ["main", "easy"])
def test_the_active_branch_is_folded(branch):
    model = lively(convert(build("resnet_tiny")))
    with route(model, branch):
        fold = folded(model, images(2, 3, 28, 28))
        assert (fold.folded, fold.norms) == (9, 9)
        assert_same(model, fold.model, images(3, 3, 28, 28))


def test_branches_that_are_active_side_by_side():
    model = lively(convert(build("resnet_tiny")))
    model.network.bn1.active = "easy"
    fold = folded(model, images(2, 3, 28, 28))
    assert fold.folded == 9
    assert_same(model, fold.model, images(3, 3, 28, 28))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_model_is_left_as_it_is(context):
    model = lively(build("resnet_tiny")).float()
    model.network.linear.weight.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    before = [(name, id(module), module.training) for name, module in model.named_modules()]
    learns = [p.requires_grad for p in model.parameters()]
    with context():
        fold = folded(model, torch.rand(2, 3, 28, 28))
    assert fold.folded == 9
    assert not any(p.is_inference() for p in fold.model.parameters())
    assert before == [(name, id(module), module.training) for name, module in model.named_modules()]
    assert learns == [p.requires_grad for p in model.parameters()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for module in [*model.modules(), *fold.model.modules()]:
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in fold.model.parameters()}


def test_a_tiny_variance_is_folded_in_float64():
    # a dead channel: the norm multiplies by 1 / sqrt(1e-5), and float32 has to carry the difference
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten()).eval()
    model[1].running_mean.copy_(model[0].bias.detach() + 1)
    model[1].running_var.zero_()
    fold = folded(model, torch.rand(1, 1, 1, 1))
    scale = (model[0].weight.double() / (1e-5**0.5)).float()
    torch.testing.assert_close(fold.model[0].weight, scale, rtol=1e-6, atol=0)


def test_train_mode_is_refused():
    with pytest.raises(ValueError, match=r"model\.eval\(\) before folding"):
        folded(build("resnet_tiny"), torch.rand(2, 3, 28, 28))


def test_folds_without_timm_in_memory(monkeypatch):
    monkeypatch.delitem(sys.modules, "timm.layers", raising=False)
    assert folded(lively(build("resnet_tiny")), images(1, 3, 28, 28)).folded == 9
