import copy

import pytest
import torch
from torch import nn

from easybn import BranchedNorm, convert, route


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.BatchNorm1d(4), (6, 4)),
        (lambda: nn.BatchNorm2d(4, affine=False), (6, 4, 3, 3)),
        (lambda: nn.BatchNorm3d(4, momentum=None), (6, 4, 2, 3, 3)),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), (6, 4, 3, 3)),
    ],
)
def test_equals_independent_norms_step_by_step(make, shape):
    """k branches with interleaved batches, against k plain layers that each see their own batches."""
    names = ("main", "adv", "easy")
    torch.manual_seed(1)
    start = make()
    branched = convert(nn.Sequential(start), names)
    plain = {name: copy.deepcopy(start) for name in names}
    ours = torch.optim.SGD(branched.parameters(), lr=0.1, momentum=0.9) if list(start.parameters()) else None
    theirs = {n: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for n, m in plain.items()} if ours else {}
    for step in range(6):
        for optimizer in [ours, *theirs.values()]:
            if optimizer:
                optimizer.zero_grad()
        for k, name in enumerate(names):
            x = torch.randn(shape) * (k + 1) + step
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            with route(branched, name):
                out = branched(a)
            expected = plain[name](b)
            assert torch.equal(out, expected)
            weight = torch.randn(shape)
            (out * weight).sum().backward()
            (expected * weight).sum().backward()
            assert torch.equal(a.grad, b.grad)
        for optimizer in [ours, *theirs.values()]:
            if optimizer:
                optimizer.step()
    for name in names:
        for key, value in plain[name].state_dict().items():
            assert torch.equal(branched[0].norms[name].state_dict()[key], value), (name, key)
    branched.eval()
    for name in names:
        plain[name].eval()
        x = torch.randn(shape)
        with route(branched, name):
            assert torch.equal(branched(x), plain[name](x))


def test_attributes_are_those_of_the_active_branch():
    layer = convert(nn.Sequential(nn.BatchNorm2d(3, eps=0.25)), ("main", "easy"))[0]
    assert layer.num_features == 3
    assert layer.eps == 0.25
    assert layer.weight is layer.norms["main"].weight
    layer.active = "easy"
    assert layer.weight is layer.norms["easy"].weight
    with pytest.raises(AttributeError):
        layer.no_such_thing  # noqa: B018


def test_a_layer_by_hand_starts_every_branch_from_the_layer_given():
    norm = nn.BatchNorm1d(2)
    norm.running_mean += 3
    layer = BranchedNorm(norm, ("a", "b"))
    assert layer.norms["a"] is norm
    assert torch.equal(layer.norms["b"].running_mean, norm.running_mean)
    assert "active='a'" in repr(layer)
