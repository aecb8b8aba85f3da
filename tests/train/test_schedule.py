import pytest
import torch

from easybn.train.schedule import Constant, Cosine, Piecewise


@pytest.mark.parametrize(("per_epoch", "epochs"), [(1, 7), (13, 4)])
def test_cosine_is_torchs(per_epoch, epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=per_epoch * epochs)
    for step in range(per_epoch * epochs):
        assert Cosine().rate(0.3, step / per_epoch, epochs) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_warm_up_rises_linearly_and_the_cosine_takes_the_rest():
    rates = [Cosine(warmup=2).rate(0.4, epoch, 10) for epoch in (0, 0.5, 1, 2)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.4])
    for epoch in (2, 3.25, 9.9):
        assert Cosine(warmup=2).rate(0.4, epoch, 10) == pytest.approx(Cosine().rate(0.4, epoch - 2, 8))


def test_piecewise_is_as_the_paper_writes():
    rate = Piecewise().rate
    # "0.1, 0.0005, and 0.0005 values after the 1, 200, and 450 epochs"
    for epoch, expected in [(0, 0), (0.25, 0.025), (1, 0.1), (199.9, 0.1), (200, 0.0005), (450, 0.0005), (499, 0.0005)]:
        assert rate(123.0, epoch, 500) == pytest.approx(expected), epoch


@pytest.mark.parametrize(("epochs", "rates"), [((1, 2), (0.1,)), ((), ()), ((3, 1), (0.1, 0.2))])
def test_piecewise_refuses_what_does_not_fit(epochs, rates):
    with pytest.raises(ValueError, match="epochs must increase, one for each rate"):
        Piecewise(epochs, rates)


def test_constant():
    assert {Constant().rate(0.2, epoch, 9) for epoch in (0, 4.5, 8.99)} == {0.2}
