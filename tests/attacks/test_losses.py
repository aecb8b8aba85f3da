import pytest
import torch
import torch.nn.functional as F

from easybn.attacks.losses import log_odds, margin


def _gradient(objective, logits, y):
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(logits, y).sum(), logits)
    return gradient


def test_log_odds_is_a_monotone_function_of_cross_entropy_with_its_direction():
    logits, y = torch.randn(40, 7, dtype=torch.float64), torch.arange(40) % 7
    loss = F.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(log_odds(logits, y), (loss.exp() - 1).log())
    ours = F.normalize(_gradient(log_odds, logits, y), dim=1)
    theirs = F.normalize(_gradient(lambda z, t: F.cross_entropy(z, t, reduction="none"), logits, y), dim=1)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gap", [20.0, 200.0, 1e4])
@pytest.mark.parametrize("objective", [log_odds, margin])
def test_gradient_does_not_saturate_in_float32(objective, gap):
    logits, y = torch.tensor([[gap, 0.0, -1.0]]), torch.tensor([0])
    gradient = _gradient(objective, logits, y)
    assert gradient[0, 0] == -1
    assert gradient[0, 1:].sum() == pytest.approx(1)
    assert objective(logits, y).dtype == torch.float64


def test_margin_is_positive_exactly_where_the_class_is_wrong():
    logits, y = torch.randn(200, 5), torch.arange(200) % 5
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)
