"""Bounds of the margin against linear networks, where they are exact, corners by enumeration, and attacks."""

import itertools

import pytest
import torch
from torch import nn

from easybn.attacks.losses import margin
from easybn.keyed_random import Noise
from easybn.metrics.proven import SLACK, Box, _Layers, _Lines, margin_bounds
from easybn.models.registry import Normalise
from easybn.models.resnet import BasicBlock, Bottleneck, ResNet
from easybn.perturb.ball import Linf
from easybn.perturb.goal import untargeted
from easybn.perturb.pgd import PGD

from ..small import small_images, small_net

N, CLASSES = 6, 4


def network(block=BasicBlock, depths=(1, 1), widths=(3, 4), seed=0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(Normalise([0.4], [0.3]), ResNet(block, depths, widths, CLASSES, 1, stem_stride=2)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 1.0)
            nn.init.normal_(module.weight, 0, 1)  # of both signs
            nn.init.normal_(module.bias, 0, 0.3)
    with torch.no_grad():
        net[1].linear.bias -= net(small_images(64, 1, seed=9)).mean(0)
    return net


def labelled(net, n=N):
    x = small_images(n, 1, seed=3)
    return x, net(x).argmax(1)


def lead(net, x, y):
    return -margin(net(x), y)


@pytest.mark.parametrize("shift", [50.0, -50.0])
def test_exact_where_every_relu_is_on_one_side(shift):
    """Far from their kinks the ReLUs are linear, or zero: the lead is a linear function of the image."""
    net = network().double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, abs(shift))
    nn.init.constant_(net[1].bn1.bias, shift)
    x, y = labelled(net, 3)[0].double(), torch.tensor([0, 1, 2])
    eps = 0.05
    expected = []
    for image, label in zip(x, y, strict=True):
        leads = []
        for other in set(range(CLASSES)) - {int(label)}:
            point = image[None].clone().requires_grad_()
            difference = net(point)[0, label] - net(point)[0, other]
            (slope,) = torch.autograd.grad(difference, point)
            step = torch.where(slope > 0, (point - eps).clamp(min=0), (point + eps).clamp(max=1)) - point
            leads.append(float((difference + (slope * step).sum()).detach()))
        expected.append(min(leads))
    found = margin_bounds(net, x, y, eps)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_at_no_eps_it_is_the_lead(block):
    net = network(block)
    x, y = labelled(net)
    assert torch.allclose(margin_bounds(net, x, y, 0.0), lead(net.double(), x.double(), y), atol=1e-9)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("eps", [0.01, 0.1])
def test_no_attack_and_no_corner_goes_below(block, eps):
    net = network(block)
    x, y = labelled(net)
    bounds = margin_bounds(net, x, y, eps)
    attack = PGD(Linf(eps), steps=20, random_start=True)
    found = [attack(net, x, untargeted(y), Noise.of(seed, "p", torch.arange(N))) for seed in range(3)]
    corners = [Linf(eps).project(x + eps * torch.randn(x.shape).sign(), x) for _ in range(20)]
    reached = torch.stack([lead(net, point, y) for point in (*found, *corners)]).amin(0).detach()
    assert (bounds <= reached + 1e-5).all()
    assert (bounds < lead(net, x, y)).all()
    if eps == 0.01:
        assert (bounds > SLACK).any()  # it does prove something


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (-3.0, 1.0), (-1.0, 1.0), (0.5, 2.0), (-2.0, -0.5), (-1.0, 0.0)]
)
@pytest.mark.parametrize("coefficient", [2.0, -2.0])
def test_the_lines_hold_the_relu_between_them(low, high, coefficient):
    """The correction at h is the line's value less that of coefficient * relu(h): never positive, 0 where they meet."""
    h = torch.linspace(low, high, 101, dtype=torch.float64)[:, None].requires_grad_()
    corrections: list[torch.Tensor] = []
    ends = (torch.full((1, 1), end, dtype=torch.float64) for end in (low, high))
    out = _Lines.apply(h, *ends, corrections)
    assert torch.equal(out, h.relu())
    out.backward(torch.full_like(out, coefficient))
    (excess,) = corrections
    assert excess.max() <= 1e-12
    if low >= 0 or high <= 0:
        assert excess.abs().max() <= 1e-12
    elif coefficient < 0:
        assert excess[[0, -1]].abs().max() <= 1e-12  # the chord
        assert h.grad.unique() == pytest.approx(coefficient * high / (high - low))
    else:
        assert excess.abs().min() <= 1e-12
        assert float(-excess.min()) == pytest.approx(2.0 * min(-low, high))  # of the lines 0 and h the nearer one


def test_no_hidden_state_leaves_its_box():
    net = network().double().requires_grad_(False)
    layers = _Layers.of(net)
    x = small_images(1, 1, seed=3).double()
    boxes = layers.boxes(Box.between((x - 0.1).clamp(min=0), (x + 0.1).clamp(max=1)), [])
    seen: list[torch.Tensor] = []
    points = (x + 0.2 * (small_images(200, 1, seed=7).double() - 0.5)).clamp(0, 1)
    layers.forward(points, lambda part, h: part(h), lambda h: seen.append(h) or h.relu(), torch.add)
    assert len(seen) == len(boxes) == 5
    for states, box in zip(seen, boxes, strict=True):
        assert (states >= box.low - 1e-9).all()
        assert (states <= box.high + 1e-9).all()
    # of the first layer, which is affine, the box is exact: corners of its entries' boxes are reached
    first = boxes[0]
    for entry in itertools.islice(range(first.low.numel()), 0, None, 7):
        point = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(layers.stem(point).flatten()[entry], point)
        corner = torch.where(slope > 0, (x + 0.1).clamp(max=1), (x - 0.1).clamp(min=0))
        assert torch.isclose(layers.stem(corner).flatten()[entry], first.high.flatten()[entry])


def test_what_it_is_not_for():
    x, y = small_images(2, 1), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"bounds are for the package's ResNets .* got a Sequential"):
        margin_bounds(small_net(1), x, y, 0.1)
    with pytest.raises(ValueError, match=r"eps must be in \[0, 1\], got 8"):
        margin_bounds(network(), x, y, 8)
    with pytest.raises(ValueError, match="labels must be integers"):
        margin_bounds(network(), x, y[:1], 0.1)
    net = network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    margin_bounds(net, x, y, 0.1)
    assert net.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
