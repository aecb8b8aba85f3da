import pytest
import torch

from easybn import L2, Linf
from easybn.attacks.attack import check_in_ball, misclassified


def test_fooled_by_more_than_rounding():
    unit = torch.finfo(torch.float32).eps
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1 + 2 * unit], [torch.nan, 0.0], [0.0, torch.nan]])
    wrong, sure = misclassified(logits, torch.zeros(5, dtype=torch.int64))
    assert wrong.tolist() == [False, True, True, True, True]
    assert sure.tolist() == [False, True, False, True, True]


def test_masked_classes_have_no_rounding():
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [1.0, 0.0, -torch.inf], [-torch.inf, 0.0, 1.0]])
    wrong, sure = misclassified(logits, torch.zeros(3, dtype=torch.int64))
    assert wrong.tolist() == sure.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "row",
    [[torch.nan] * 3, [0.0, torch.nan, 0.0], [torch.inf, 0.0, 0.0], [torch.inf, torch.inf, 0.0], [-torch.inf] * 3],
)
def test_logits_that_say_nothing_are_wrong_for_every_class(row):
    logits = torch.tensor([row] * 3)
    wrong, sure = misclassified(logits, torch.arange(3))
    assert wrong.all()
    assert sure.all()


@pytest.mark.parametrize("ball", [L2(0.5), Linf(0.1)])
def test_check_within_accepts_the_surface_and_refuses_beyond(ball):
    centre = torch.full((4, 3, 8, 8), 0.5)
    step = ball.steepest(torch.randn(4, 3, 8, 8)) * float(ball.eps)
    distance = check_in_ball(ball, centre + step, centre)
    torch.testing.assert_close(distance, torch.full((4,), float(ball.eps), dtype=torch.float64), atol=1e-6, rtol=0)
    with pytest.raises(RuntimeError, match="left its ball"):
        check_in_ball(ball, centre + 1.001 * step, centre)
    with pytest.raises(RuntimeError, match="left its ball"):
        check_in_ball(ball, torch.full_like(centre, torch.nan), centre)


def test_check_within_refuses_pixels_outside_the_unit_interval():
    centre = torch.zeros(1, 1, 2, 2)
    with pytest.raises(RuntimeError, match=r"pixels -0\.01"):
        check_in_ball(Linf(0.1), centre - 0.01, centre)
