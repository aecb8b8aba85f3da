"""What the paper starts from: a step of the easy goal makes images easier for their true class."""

import pytest
import torch
import torch.nn.functional as F

from easybn import L2, PGD, Linf, Training, easy, fit, untargeted
from easybn.data import load
from easybn.models import build
from easybn.recipes import Vanilla


@pytest.fixture(scope="module")
def trained():
    source = load("sample")
    torch.manual_seed(0)
    model = build("resnet_tiny", in_channels=1, mean=source.mean, std=source.std)
    index = torch.arange(1500)
    fitted = fit(model, Vanilla(), source.train.subset(index), Training(epochs=3, batch_size=50, lr=0.05))
    return fitted.model, *source.test.batch(torch.arange(300))


@pytest.mark.parametrize("ball", [Linf(8 / 255), L2(0.5)])
@pytest.mark.parametrize("steps", [1, 10])
def test_easy_goal_lowers_the_true_label_loss_on_nearly_all_points(trained, ball, steps):
    model, x, y = trained

    def losses(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return F.cross_entropy(model(images), y, reduction="none")

    clean = losses(x)
    assert (clean.mean() < 1.2).item(), "the model must have learnt something"
    easier = losses(PGD(ball, steps=steps)(model, x, easy(y)))
    harder = losses(PGD(ball, steps=steps)(model, x, untargeted(y)))
    assert (easier < clean).double().mean() > 0.97
    assert (harder > clean).double().mean() > 0.97
