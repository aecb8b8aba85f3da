import pytest
import torch

from easybn import easy, random_target, targeted, untargeted
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
