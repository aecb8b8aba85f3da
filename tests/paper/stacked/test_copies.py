import pytest
import torch
from torch import nn

from easybn.data import Split
from easybn.paper.stacked_images import Condition, paired, recognised


class Linear(nn.Module):
    """Three classes of 2 x 3 x 3 images; the logit of class 2 is far below the others."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 18))
        self.register_buffer("bias", torch.tensor([0.0, 0.0, -1e4]))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


def split_of(n):
    return Split(torch.randint(0, 256, (n, 2, 3, 3)).byte(), torch.arange(n) % 3)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("k", [1, 8, 16])
@pytest.mark.parametrize(("kind", "sign"), [("easy", 1), ("adversarial", -1)])
def test_a_linear_networks_copies_are_the_balls_corners(kind, sign, k, steps):
    net, split = Linear().eval(), split_of(600)
    pairs = paired(net, split, (1, 0), Condition(kind, k / 255, steps))
    # class 2 has no share in the softmax: the gradient is along the difference of two rows, whatever the image
    toward_0 = (net.weight[0] - net.weight[1]).sign().view(2, 3, 3)
    found = 0
    for image, label in zip(split.images, split.labels.tolist(), strict=True):
        if label == 2:
            continue
        direction = toward_0 if label == 0 else -toward_0
        expected = (image + sign * k * direction).clamp(0, 255).byte()
        assert torch.equal(pairs.originals[found], image)
        assert torch.equal(pairs.copies[found], expected)
        assert int(pairs.labels[found]) == (label == 0)  # the class named second is 1
        found += 1
    assert found == len(pairs) == 400


def test_copies_stay_in_the_ball_and_reach_their_goal(trained):
    net, x, y = trained
    split = Split((255 * x).round().byte(), y)
    right = {}
    for condition in (Condition("easy", 8 / 255, 10), Condition("untouched"), Condition("adversarial", 8 / 255, 10)):
        pairs = paired(net, split, (0, 6), condition)
        distance = (pairs.copies.int() - pairs.originals.int()).abs().max()
        assert int(distance) == (0 if condition.copy == "untouched" else 8)
        right[condition.copy] = recognised(net, pairs.copies, torch.where(pairs.labels == 1, 6, 0))
    assert right["easy"] > right["untouched"] > right["adversarial"]


def test_the_network_is_left_as_it_was():
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, 3), nn.BatchNorm1d(3))
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    paired(net, split_of(30), (0, 1), Condition("easy", 8 / 255, 2))
    recognised(net, split_of(30).images, split_of(30).labels)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_recognised_counts():
    net, split = Linear(), split_of(300)
    with torch.no_grad():
        slow = sum(int(net(x[None].float() / 255).argmax()) == int(y) for x, y in zip(split.images, split.labels))  # noqa: B905
    assert recognised(net, split.images, split.labels) == slow
