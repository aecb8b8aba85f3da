"""CKA and class separation, against their definitions written out slowly, and closed forms."""

import itertools

import pytest
import torch
from torch import nn

from easybn.data.split import Split
from easybn.metrics.instrument import Subject
from easybn.metrics.latent import (
    ADVERSARIAL,
    BRANCHES,
    CKA,
    CLEAN,
    EASY,
    SEPARATION,
    Latent,
    cka,
    class_separation,
    unbiased_hsic,
)
from easybn.norm.convert import convert, strip


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_hsic(k: torch.Tensor, m: torch.Tensor) -> float:
    """The U-statistic: means over all ordered pairs, triples and quadruples of different images."""
    n = len(k)

    def mean(size: int, term) -> float:
        values = [term(*each) for each in itertools.permutations(range(n), size)]
        return sum(values) / len(values)

    pairs = mean(2, lambda i, j: float(k[i, j] * m[i, j]))
    quadruples = mean(4, lambda i, j, q, r: float(k[i, j] * m[q, r]))
    triples = mean(3, lambda i, j, q: float(k[i, j] * m[i, q]))
    return pairs + quadruples - 2 * triples


def products(x: torch.Tensor) -> torch.Tensor:
    return x @ x.T


@pytest.mark.parametrize("n", [4, 7])
def test_hsic_is_the_mean_over_different_images(n):
    k, m = products(random(n, 3)), products(random(n, 5, seed=1))
    assert float(unbiased_hsic(k, m)) == pytest.approx(slow_hsic(k, m), rel=1e-9)
    expected = slow_hsic(k, m) / (slow_hsic(k, k) * slow_hsic(m, m)) ** 0.5
    assert cka(k, m) == pytest.approx(expected, rel=1e-9)


def test_a_shift_of_the_features_changes_nothing():
    x, y = random(20, 4), random(20, 6, seed=1)
    k, m = products(x), products(y)
    assert cka(products(x + 3), products(y - y.mean(0))) == pytest.approx(cka(k, m), rel=1e-9)


@pytest.mark.parametrize("columns", [3, 50])
def test_a_rotation_and_a_scale_have_cka_1(columns):
    x = random(30, columns)
    rotation = torch.linalg.qr(random(columns, columns, seed=2)).Q
    assert cka(products(x), products(-2.5 * x @ rotation)) == pytest.approx(1, rel=1e-9)
    stretched = x * torch.linspace(0.1, 3, columns, dtype=torch.float64)  # no rotation
    assert cka(products(x), products(stretched)) < 0.99


def test_unrelated_features_of_few_images_have_cka_0():
    """The biased estimator is near 1 here."""
    k, m = products(random(20, 2000)), products(random(20, 2000, seed=1))
    centre = torch.eye(20, dtype=torch.float64) - 1 / 20
    biased = [float(torch.trace(a @ centre @ b @ centre)) for a, b in ((k, m), (k, k), (m, m))]
    assert biased[0] / (biased[1] * biased[2]) ** 0.5 > 0.9
    assert abs(cka(k, m)) < 0.3


def test_it_agrees_with_the_biased_estimator_on_many_images():
    x = random(400, 5)
    y = x @ random(5, 3, seed=1) + 0.5 * random(400, 3, seed=2)
    a, b = x - x.mean(0), y - y.mean(0)  # Kornblith et al., 2019, equation of linear CKA
    biased = float((b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))
    assert cka(products(x), products(y)) == pytest.approx(biased, abs=0.02)


def test_features_that_do_not_vary():
    assert cka(torch.ones(6, 6, dtype=torch.float64), products(random(6, 2))) == 0
    with pytest.raises(ValueError, match="at least 4"):
        unbiased_hsic(torch.eye(3), torch.eye(3))


def slow_separation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Kornblith et al. (2021), equation 11: sums over all pairs."""
    classes = sorted(set(y.tolist()))
    rows = {k: [x[i] / x[i].norm() for i in range(len(y)) if y[i] == k] for k in classes}

    def distance(a: int, b: int) -> float:
        every = [1 - float(p @ q) for p in rows[a] for q in rows[b]]
        return sum(every) / len(every)

    within = sum(distance(k, k) for k in classes) / len(classes)
    total = sum(distance(a, b) for a in classes for b in classes) / len(classes) ** 2
    return 1 - within / total


def cosines(x: torch.Tensor) -> torch.Tensor:
    return products(nn.functional.normalize(x, dim=1))


def test_class_separation_is_its_definition():
    x, y = random(17, 4), torch.tensor([0, 1, 1, 4, 0, 4, 4, 4, 1, 0, 0, 0, 1, 4, 1, 0, 4])  # of unequal size
    assert class_separation(cosines(x), y) == pytest.approx(slow_separation(x, y), rel=1e-9)


def test_class_separation_of_clusters_has_a_closed_form():
    """Two classes around orthogonal directions, each of two images at angle a to either side, in planes of their own.

    Within: half of the pairs are an image with itself (0), half are 2 a apart: (1 - cos 2a) / 2 = sin^2 a. Between the
    classes the cosine is 0, so that in all (sin^2 a + 1) / 2: R2 = 1 - 2 sin^2 a / (1 + sin^2 a).
    """
    for a in (0.0, 0.4, 1.2):
        angle = torch.tensor(a, dtype=torch.float64)
        x = torch.zeros(4, 4, dtype=torch.float64)
        for row, (first, sign) in enumerate(((0, 1), (0, -1), (2, 1), (2, -1))):
            x[row, first], x[row, first + 1] = angle.cos(), sign * angle.sin()
        squared = float(angle.sin() ** 2)
        expected = 1 - 2 * squared / (1 + squared)
        assert class_separation(cosines(3 * x), torch.tensor([0, 0, 1, 1])) == pytest.approx(expected, rel=1e-12)


def test_classes_that_mean_nothing_are_not_separated():
    x = random(8, 3)
    assert class_separation(cosines(x.repeat(2, 1)), torch.arange(16) // 8) == pytest.approx(0, abs=1e-12)
    assert class_separation(cosines(torch.ones(4, 3, dtype=torch.float64)), torch.tensor([0, 0, 1, 1])) == 0


class Linear(nn.Module):
    """Logits of the mean of each half of an image, through a batch norm of one branch or another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(8)[:6])

    def forward(self, x):
        return self.last(self.norm(self.first(x.flatten(1))))


@pytest.fixture(scope="module")
def measured() -> dict:
    """Of a network whose easy branch only scales what main does, and whose adversarial branch keeps two directions."""
    torch.manual_seed(0)
    branched = convert(Linear(), ["main", "easy", "adv"]).eval()
    with torch.no_grad():
        branched.norm.norms["easy"].weight.fill_(-3.0)
        branched.norm.norms["easy"].bias.fill_(1.0)
        branched.norm.norms["adv"].weight.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]))
    images = torch.randint(0, 256, (60, 1, 2, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(images, torch.arange(60) % 2)
    subject = Subject(strip(branched).eval(), split, torch.arange(60), 2, branched=branched)
    found = Latent(eps=0.1).measure(subject)
    return {(each.measure, each.series, each.place): each for each in found}


def test_branches_that_differ_by_a_scale_have_cka_1(measured):
    assert measured[BRANCHES, "main and easy", "norm"].value == pytest.approx(1, rel=1e-6)
    assert measured[BRANCHES, "main and easy", "first"].value == pytest.approx(1, rel=1e-6)
    other = measured[BRANCHES, "main and adv", "norm"]
    assert 0.1 < other.value < 0.8  # near 1 / sqrt(3): two of six directions of equal variance
    assert other.low < 3**-0.5 < other.high
    assert other.value == pytest.approx(measured[BRANCHES, "easy and adv", "norm"].value, rel=1e-6)
    assert (BRANCHES, "main and easy", "image") not in measured


def test_of_a_linear_network_copies_are_shifted_by_one_of_two_directions(measured):
    """A step goes where the sign of a fixed direction says, one way in one class and the other way in the other."""
    for kind in (EASY, ADVERSARIAL):
        for place in ("image", "first", "logits"):
            assert 0.3 < measured[CKA, kind, place].value < 1
    separations = [measured[SEPARATION, kind, "first"].value for kind in (ADVERSARIAL, CLEAN, EASY)]
    assert separations[1] < separations[2]  # easy copies move apart, class by class
    assert measured[SEPARATION, "clean, branch easy", "first"].value == pytest.approx(separations[1], rel=1e-6)


def test_mistakes():
    for fields, told in (({"eps": 0.0}, "eps"), ({"steps": 0}, "steps")):
        with pytest.raises(ValueError, match=told):
            Latent(**fields)
    images = Split(torch.zeros(3, 1, 2, 4, dtype=torch.uint8), torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="latent needs at least 4 images, got 3"):
        Latent().measure(Subject(Linear().eval(), images, torch.arange(3), 2))
