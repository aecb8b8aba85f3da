"""Effective ranks, against matrices of known spectrum and closed forms."""

import math

import pytest
import torch
from torch import nn

from easybn.data.split import Split
from easybn.metrics.instrument import Subject
from easybn.metrics.rank import CHANNELS, OUTPUTS, WEIGHTS, Rank, effective_rank, rank_of_gram, rank_of_rows


def orthogonal(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q


def centred_rows(values: list[float], n: int) -> torch.Tensor:
    """(n, n) with these singular values (zeros after them) and columns of mean 0."""
    ones = torch.ones(n, 1, dtype=torch.float64)
    left = torch.linalg.qr(torch.cat([ones, orthogonal(n, 3)], 1)).Q[:, 1 : len(values) + 1]  # orthogonal to the ones
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ orthogonal(n, 4)[: len(values)]


@pytest.mark.parametrize("k", [1, 2, 7])
def test_k_equal_singular_values_have_rank_k(k):
    assert effective_rank(torch.full((k,), 0.3)) == pytest.approx(k, rel=1e-12)
    assert effective_rank(torch.tensor([0.3] * k + [0.0] * 5)) == pytest.approx(k, rel=1e-12)
    for rank in (rank_of_rows(centred_rows([0.3] * k, 20)), rank_of_gram(gram(centred_rows([0.3] * k, 20)))):
        assert rank == pytest.approx(k, rel=1e-9)


def gram(x: torch.Tensor) -> torch.Tensor:
    return x @ x.T


def test_a_geometric_spectrum_has_a_closed_form():
    """p_i = (1 - r) r^i: H = -log(1 - r) - r log(r) / (1 - r)."""
    for r in (0.3, 0.8):
        entropy = -math.log(1 - r) - r * math.log(r) / (1 - r)
        spectrum = r ** torch.arange(400, dtype=torch.float64)
        assert effective_rank(spectrum) == pytest.approx(math.exp(entropy), rel=1e-12)


def test_two_unequal_values():
    """p = (3/4, 1/4): exp(H) = (4/3)^(3/4) 4^(1/4)."""
    expected = (4 / 3) ** 0.75 * 4**0.25
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(expected, rel=1e-12)
    assert rank_of_rows(centred_rows([3.0, 1.0], 9)) == pytest.approx(expected, rel=1e-9)


def test_nothing_has_rank_0():
    assert effective_rank(torch.zeros(3)) == 0
    assert rank_of_rows(torch.ones(5, 3)) == 0  # rows that do not differ


@pytest.mark.parametrize("columns", [6, 40])
def test_scale_rotation_and_shift_change_nothing(columns):
    x = torch.randn(25, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    singular = torch.linalg.svdvals(x - x.mean(0))  # from the definition
    expected = effective_rank(singular)
    shift = torch.arange(columns, dtype=torch.float64)
    for same in (x, -1e4 * x, x @ orthogonal(columns, 1), x + shift, x.flip(0)):
        assert rank_of_rows(same) == pytest.approx(expected, rel=1e-9)
        assert rank_of_gram(gram(same - same.mean(0))) == pytest.approx(expected, rel=1e-7)
        assert rank_of_gram(gram(same)) == pytest.approx(expected, rel=1e-6)


class Directions(nn.Module):
    """Keeps ``k`` directions of an image and repeats them to ten logits: all else is zero."""

    def __init__(self, k: int):
        super().__init__()
        self.first = nn.Linear(16, 10, bias=False)
        self.second = nn.Linear(10, 10, bias=False)
        with torch.no_grad():
            self.first.weight.zero_()
            self.first.weight[:k, :k] = torch.eye(k)
            self.second.weight.copy_(torch.eye(10))

    def forward(self, x):
        return self.second(self.first(x.flatten(1)))


def corners(k: int) -> Split:
    """All images of 16 pixels of which the first k are black or white: of equal variance, and uncorrelated."""
    bits = torch.cartesian_prod(*[torch.tensor([0, 255])] * k).to(torch.uint8).reshape(-1, k)
    images = torch.cat([bits, torch.zeros(len(bits), 16 - k, dtype=torch.uint8)], 1).reshape(-1, 1, 4, 4)
    return Split(images, torch.arange(len(images)) % 10)


def test_of_a_network_that_keeps_k_directions():
    split = corners(5)
    subject = Subject(Directions(4).eval(), split, torch.arange(32), 10)
    found = {(each.measure, each.place): each for each in Rank().measure(subject)}
    assert found[OUTPUTS, "image"].value == pytest.approx(5, rel=1e-9)
    for place in ("first", "logits"):
        assert found[OUTPUTS, place].value == pytest.approx(4, rel=1e-9)
        assert found[CHANNELS, place].value == pytest.approx(4, rel=1e-9)
        assert found[CHANNELS, place].low <= 4 <= found[CHANNELS, place].high
    assert found[WEIGHTS, "first"].value == pytest.approx(4, rel=1e-9)
    assert found[WEIGHTS, "second"].value == pytest.approx(10, rel=1e-9)
    assert found[WEIGHTS, "first"].low is None  # exact


def test_the_mean_over_positions():
    """A convolution that copies its channel three times: one direction in its channels, and 4 in its outputs."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(12, 2)).eval()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    bits = torch.cartesian_prod(*[torch.tensor([0, 255])] * 4).to(torch.uint8).reshape(-1, 1, 2, 2)
    subject = Subject(net, Split(bits, torch.zeros(16, dtype=torch.int64)), torch.arange(16), 2)
    found = {(each.measure, each.place): each.value for each in Rank().measure(subject)}
    assert found[CHANNELS, "0"] == pytest.approx(1, rel=1e-6)
    assert found[OUTPUTS, "0"] == pytest.approx(4, rel=1e-6)
