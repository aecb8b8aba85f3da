"""The protocol against its own text, transcribed as literally as can be."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easybn.evaluation import evaluate

from ..small import small_images, small_net


def _images(dtype: torch.dtype) -> Tensor:
    """A third of the pixels at exactly 0 or 1, as in many data sets."""
    return (1.5 * small_images(24, dtype=dtype) - 0.25).clamp(0, 1)


def _literal(model: nn.Module, x0: Tensor, y: Tensor, norm: str, eps: float, steps: int) -> Tensor:
    step, x, best, best_loss = 2.5 * eps / steps, x0.clone(), x0.clone(), [-float("inf")] * len(x0)

    def keep_best(losses: Tensor) -> None:
        for i, loss in enumerate(losses.tolist()):
            if loss > best_loss[i]:
                best[i], best_loss[i] = x[i], loss

    for _ in range(steps):
        leaf = x.clamp(0, 1).requires_grad_()  # its derivative at 0 and 1 is 1, as in the torch of the papers
        losses = F.cross_entropy(model(leaf), y, reduction="none")
        losses.mean().backward()
        keep_best(losses)
        for i, g in enumerate(leaf.grad):
            moved = x[i] + step * (g / (g.square().sum().sqrt() + 1e-10) if norm == "l2" else g.sign())
            d = moved - x0[i]
            if norm == "l2":
                length = d.square().sum().sqrt()
                d = d * (eps / (length + 1e-7)) if length > eps else d
            else:
                d = d.clamp(-eps, eps)
            x[i] = (x0[i] + d).clamp(0, 1)
    with torch.no_grad():
        keep_best(F.cross_entropy(model(x), y, reduction="none"))
    return best


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.4), ("l2", 0.25), ("linf", 0.04)])
@pytest.mark.parametrize("batch_size", [5, 64])
def test_equals_the_literal_steps(norm, eps, batch_size):
    model, x = small_net().double(), _images(torch.float64)
    y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 4  # points that are wrong already are attacked too
    found = evaluate(
        model, x, y, norm=norm, eps=eps, protocol="robustness", steps=12, batch_size=batch_size, keep_images=True
    )
    expected = torch.cat(
        [_literal(model, a, b, norm, eps, 12) for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)]
    )
    torch.testing.assert_close(found.images, expected, atol=1e-9, rtol=0)
    assert torch.equal(found.robust, model(expected).argmax(1) == y)
    assert 0 < int(found.robust.sum()) < int(found.clean.sum())
    score = found.scores[1]
    assert score.protocol == "robustness"
    assert score.batch_size == min(batch_size, 24)
    assert score.step_size == 2.5 * eps / 12
    assert score.max_perturbation == pytest.approx(eps, rel=2e-3)  # a pixel at its bound shortens a step


def test_equals_the_literal_steps_in_float32():
    model, x = small_net(), _images(torch.float32)
    y = model(x).argmax(1)
    found = evaluate(model, x, y, eps=0.4, protocol="robustness", steps=12, batch_size=8, keep_images=True)
    expected = torch.cat([_literal(model, a, b, "l2", 0.4, 12) for a, b in zip(x.split(8), y.split(8), strict=True)])
    # of 24 images with 12 x 96 ReLUs each, rounding may put one unit on the other side of its kink: another path
    apart = (found.images - expected).abs().flatten(1).amax(1) > 1e-5
    assert apart.sum() <= 1
    assert torch.equal(found.robust[~apart], (model(expected).argmax(1) == y)[~apart])


class Confident(nn.Module):
    """Two classes whose logits differ by 24 at the image 0.5, and by 0 at distance 0.4 from it."""

    def __init__(self) -> None:
        super().__init__()
        direction = torch.full((1, 64), 1 / 8)
        self.linear = nn.Linear(64, 2, bias=False)
        self.linear.weight = nn.Parameter(torch.cat((direction, -direction)) * 30)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1) - 0.5) + torch.tensor([24.0, 0.0])


@pytest.mark.parametrize(("protocol", "batch_size", "accuracy"), [
    ("robustness", 128, 0.0), ("robustness", 1000, 1.0), ("strong", 128, 0.0), ("strong", 1000, 0.0)
])  # fmt: skip
def test_the_fault_is_kept_and_strong_is_free_of_it(protocol, batch_size, accuracy):
    x, y = torch.full((1000, 1, 8, 8), 0.5), torch.zeros(1000, dtype=torch.int64)
    found = evaluate(Confident(), x, y, eps=0.5, protocol=protocol, batch_size=batch_size)
    assert found.clean_accuracy == 1
    assert found.robust_accuracy == accuracy


def test_a_loss_that_does_not_grow_keeps_the_first_iterate():
    """Cross-entropy is exactly 0 in float32 all the way, whilst sign steps move the image."""
    x, y = torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64)
    found = evaluate(Confident(), x, y, norm="linf", eps=0.01, protocol="robustness", steps=5, keep_images=True)
    assert torch.equal(found.images, x)
    assert found.scores[1].max_perturbation == 0


def test_every_radius_is_a_run_of_its_own():
    model, x = small_net(), small_images(20)
    y = model(x).argmax(1)
    both = evaluate(model, x, y, eps=[0.6, 0.2], protocol="robustness", steps=8)
    for eps in (0.2, 0.6):
        assert torch.equal(both.robust_at[eps], evaluate(model, x, y, eps=eps, protocol="robustness", steps=8).robust)


def test_non_finite_gradients_are_no_step_and_counted():
    class Root(nn.Module):  # the derivative of sqrt is infinite at 0
        def forward(self, x: Tensor) -> Tensor:
            assert x.isfinite().all()
            z = x.flatten(1)[:, :2]
            return z.abs().sqrt() + torch.tensor([1.0, 0.0])

    x = torch.full((3, 1, 2, 2), 0.25)
    x[0] = 0
    for protocol, runs in (("robustness", 1), ("strong", 2)):
        found = evaluate(Root().eval(), x, torch.zeros(3, dtype=torch.int64), eps=0.1, steps=5, protocol=protocol)
        assert found.robust.all()
        assert found.scores[1].non_finite == 5 * runs
        assert found.remarks == [f"{5 * runs} gradient steps were not taken because the gradient was not finite"]
