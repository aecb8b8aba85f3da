import pytest
import torch

from easybn import easy, mixed_target, random_target, targeted, untargeted
from easybn.keyed_random import Noise


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_random_target_is_never_the_true_label_and_every_other_class_is_equally_likely(classes):
    n = 20_000
    y = torch.arange(n) % classes
    target = random_target(y, Noise.of(0, "target", torch.arange(n))).target(classes)
    assert not (target == y).any()
    assert target.min() >= 0
    assert target.max() < classes
    offset = (target - y) % classes
    counts = torch.bincount(offset, minlength=classes)[1:].double()
    expected = n / (classes - 1)
    freedom = classes - 2
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 <= freedom + 4.5 * (2 * freedom) ** 0.5 + 10


def test_random_target_without_noise_follows_torchs_seed():
    y = torch.zeros(50, dtype=torch.int64)
    torch.manual_seed(1)
    first = random_target(y).target(10)
    torch.manual_seed(1)
    assert torch.equal(random_target(y).target(10), first)
    assert not torch.equal(random_target(y).target(10), first)


def chi_squared(counts: torch.Tensor, expected: float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.99])
def test_a_mixed_target_is_the_true_label_with_probability_p_and_the_others_are_equally_likely(classes, p):
    n = 20_000
    y = torch.arange(n) % classes
    offset = (mixed_target(y, p, Noise.of(0, "target", torch.arange(n))).target(classes) - y) % classes
    counts = torch.bincount(offset, minlength=classes).double()
    assert abs(float(counts[0]) - n * p) <= 4.5 * (n * p * (1 - p)) ** 0.5
    rest = n - float(counts[0])
    freedom = classes - 2
    assert chi_squared(counts[1:], rest / (classes - 1)) <= freedom + 4.5 * (2 * freedom) ** 0.5 + 10


def test_at_one_in_k_the_mixed_target_says_nothing_about_the_label():
    """Every pair of label and target is equally likely: the table of counts is flat."""
    n, classes = 50_000, 5
    y = torch.arange(n) % classes
    target = mixed_target(y, 1 / classes, Noise.of(1, "target", torch.arange(n))).target(classes)
    counts = torch.bincount(classes * y + target, minlength=classes**2).double()
    freedom = classes * (classes - 1)
    assert chi_squared(counts, n / classes**2) <= freedom + 4.5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_ends_of_a_mixed_target_are_a_random_one_and_the_easy_one(classes):
    y, noise = torch.arange(5000) % classes, Noise.of(2, "target", torch.arange(5000))
    assert torch.equal(mixed_target(y, 0, noise).target(classes), random_target(y, noise).target(classes))
    # written out: the draw's place among the K - 1 other classes
    by_hand = (y + 1 + (noise.uniform().double() * (classes - 1)).floor().long()) % classes
    assert torch.equal(random_target(y, noise).target(classes), by_hand)
    assert torch.equal(mixed_target(y, 1, noise).target(classes), easy(y).target(classes))
    # more probability makes more of the same images easy
    easier = [mixed_target(y, p, noise).target(classes) == y for p in (0.2, 0.5, 0.8)]
    assert bool((easier[0] <= easier[1]).all())
    assert bool((easier[1] <= easier[2]).all())


def test_a_mixed_target_depends_on_the_image_alone():
    ids = torch.arange(100)
    y = ids % 10
    whole = mixed_target(y, 0.3, Noise.of(3, "target", ids, 7)).target(10)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    parts = [mixed_target(y[part], 0.3, Noise.of(3, "target", ids[part], 7)).target(10) for part in order.split(33)]
    assert torch.equal(torch.cat(parts), whole[order])


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_probability_out_of_range(p):
    with pytest.raises(ValueError, match=r"p must be a probability in \[0, 1\]"):
        mixed_target(torch.tensor([0]), p)


def test_objectives_are_signed_cross_entropies_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    y = torch.tensor([0, 1])
    probability = logits.exp() / logits.exp().sum(1, keepdim=True)
    loss = -probability[[0, 1], [0, 1]].log()
    torch.testing.assert_close(untargeted(y).objective(logits, y), loss)
    torch.testing.assert_close(targeted(y).objective(logits, y), -loss)
    torch.testing.assert_close(easy(y).objective(logits, y), -loss)


def test_precision_is_float32_at_least_and_float64_where_the_logits_are():
    y = torch.tensor([0])
    for given, computed in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        assert easy(y).objective(torch.zeros(1, 3, dtype=given), y).dtype == computed


@pytest.mark.parametrize("y", [[-1, 0], [0, 3]])
def test_labels_that_do_not_fit_the_logits(y):
    with pytest.raises(ValueError, match=r"labels must be in 0 \.\. 2 for 3 logits"):
        easy(torch.tensor(y)).target(3)


def test_a_random_target_needs_two_classes():
    with pytest.raises(ValueError, match="at least two classes"):
        random_target(torch.tensor([0])).target(1)
