import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from easybn import L2, PGD, Linf, easy, random_target, targeted, untargeted
from easybn.keyed_random import Noise

D, K = 12, 5


def linear(seed: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(D, K, dtype=dtype).requires_grad_(False), torch.rand(6, D, dtype=dtype) * 0.2 + 0.4


def best_linf(direction: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    """The closed-form maximiser of <direction, x'> in the l-infinity ball and [0, 1]."""
    return torch.where(direction > 0, (x + eps).clamp(max=1), (x - eps).clamp(min=0))


def best_l2(direction: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    """The closed-form maximiser of <direction, x'> in the l2 ball, where no pixel leaves [0, 1]."""
    return x + eps * direction / direction.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("goal", ["untargeted", "targeted", "easy", "random_target"])
@pytest.mark.parametrize(("ball", "best"), [(Linf(0.1), best_linf), (L2(0.3), best_l2), (Linf(0.7), best_linf)])
@pytest.mark.parametrize("random_start", [False, True])
def test_two_class_linear_model_reaches_the_closed_form_optimum(goal, ball, best, random_start):
    """With two classes the loss is monotone in <w1 - w0, x>, so its best point in a ball is known."""
    torch.manual_seed(3)
    model = nn.Linear(D, 2, dtype=torch.float64).requires_grad_(False)
    x, y = torch.rand(6, D, dtype=torch.float64) * 0.2 + 0.4, torch.tensor([0, 1, 0, 1, 1, 0])
    goals = {
        "untargeted": untargeted(y),
        "targeted": targeted(1 - y),
        "easy": easy(y),
        "random_target": random_target(y),
    }
    wanted = y if goal == "easy" else 1 - y  # the class that gains
    direction = (model.weight[1] - model.weight[0]) * (2 * wanted - 1).unsqueeze(1)
    out = PGD(ball, steps=60, step_size=ball.eps / 4, random_start=random_start)(model, x, goals[goal])
    gain, best_gain = ((direction * (point - x)).sum(1) for point in (out, best(direction, x, ball.eps)))
    torch.testing.assert_close(gain, best_gain, rtol=1e-4, atol=0)


@given(st.integers(0, 10_000), st.sampled_from([Linf(0.05), L2(0.1)]))
def test_easy_step_on_any_linear_model_is_the_steepest_descent_of_the_true_label_loss(seed, ball):
    model, x = linear(seed)
    y = torch.randint(0, K, (6,))
    out = PGD(ball)(model, x, easy(y))
    p = model(x).softmax(1)
    gradient = (p - nn.functional.one_hot(y, K)) @ model.weight  # of the cross-entropy, by hand
    best = best_linf if isinstance(ball, Linf) else best_l2
    torch.testing.assert_close(out, best(-gradient, x, ball.eps))


@given(
    st.integers(0, 1000),
    st.sampled_from([Linf(0.02), Linf(0.5), L2(0.1), L2(2.0)]),
    st.integers(1, 4),
    st.sampled_from([None, 0.01, 5.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_result_is_always_inside_the_ball_and_the_pixels(seed, ball, steps, step_size, random_start):
    model, _ = linear(seed, torch.float32)
    x, y = torch.rand(6, D), torch.randint(0, K, (6,))
    x[0], x[1] = 0.0, 1.0
    out = PGD(ball, steps, step_size, random_start)(model, x, untargeted(y))
    assert (ball.distance(out, x) <= ball.eps + 3e-7).all()
    assert out.min() >= 0
    assert out.max() <= 1
    assert not out.requires_grad


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 36, K)
    )


@pytest.mark.parametrize("mode", [True, False])
def test_touches_no_gradient_no_statistic_and_no_mode(mode):
    model = net().train(mode)
    model[1].requires_grad_(False).eval()
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    model(x).sum().backward()
    before = copy.deepcopy(model)
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    x_kept = x.clone()
    PGD(Linf(0.1), steps=3, random_start=True)(model, x, untargeted(y))
    assert torch.equal(x, x_kept)
    assert x.grad is None
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    for parameter, grad, old in zip(model.parameters(), grads, before.parameters(), strict=True):
        assert parameter.requires_grad == old.requires_grad
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)


def test_works_inside_no_grad():
    model, x = linear(0)
    y = torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        inside = PGD(Linf(0.1))(model, x, easy(y))
    assert torch.equal(inside, PGD(Linf(0.1))(model, x, easy(y)))
    assert not torch.equal(inside, x)


def test_a_gradient_that_is_not_finite_is_no_step_and_is_counted():
    weight = torch.rand(2, D)

    def f(x: torch.Tensor) -> torch.Tensor:
        logits = x @ weight.T
        logits[1] = logits[1] * float("nan")
        logits[2] = logits[2] * float("inf")
        return logits

    x, y = torch.rand(4, D) * 0.5 + 0.25, torch.tensor([0, 1, 0, 1])
    result = PGD(Linf(0.1), steps=3).run(f, x, untargeted(y))
    assert result.non_finite.tolist() == [0, 3, 3, 0]
    assert result.steps == 3
    assert torch.equal(result.x[1:3], x[1:3])
    healthy = PGD(Linf(0.1), steps=3)(lambda x: x @ weight.T, x, untargeted(y))
    assert torch.equal(result.x[[0, 3]], healthy[[0, 3]])


def test_start_from_noise_with_a_probability():
    """A constant model gives no gradient: what comes out is where each image started."""
    n = 4000
    x = torch.full((n, 1, 2, 2), 0.5)
    y = torch.zeros(n, dtype=torch.int64)

    def constant(x: torch.Tensor) -> torch.Tensor:
        return (x * 0).flatten(1)

    noise = Noise.of(0, "a", torch.arange(n))
    moved = {}
    for probability in (False, 0.8, True):
        out = PGD(Linf(0.1), random_start=probability)(constant, x, easy(y), noise)
        moved[probability] = (out != x).flatten(1).any(1).double().mean()
    assert moved[False] == 0
    assert moved[True] == 1
    assert abs(moved[0.8] - 0.8) < 4.5 * (0.16 / n) ** 0.5


def test_keyed_start_does_not_depend_on_the_batch():
    model, x = linear(1, torch.float32)
    y = torch.arange(6) % K
    attack = PGD(L2(0.2), steps=2, random_start=0.5)
    ids = torch.arange(6)
    together = attack(model, x, untargeted(y), Noise.of(0, "a", ids))
    alone = [attack(model, x[i : i + 1], untargeted(y[i : i + 1]), Noise.of(0, "a", ids[i : i + 1])) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_default_step_sizes():
    assert PGD(Linf(0.1)).step_length == pytest.approx(0.1)
    assert PGD(Linf(0.1), steps=10).step_length == pytest.approx(0.025)
    assert PGD(Linf("8/255"), step_size="2/255").step_length == pytest.approx(2 / 255)


X, Y = torch.rand(3, D), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("x", "y", "error", "says"),
    [
        (X * 255, Y, ValueError, r"in \[0, 1\], got .*normalise"),
        (X - 1, Y, ValueError, r"in \[0, 1\]"),
        (X * float("nan"), Y, ValueError, r"in \[0, 1\]"),
        ((X * 255).to(torch.uint8), Y, TypeError, r"floating point.*\.float\(\) / 255"),
        (X[:0], Y[:0], ValueError, "at least one"),
        (X, Y[:2], ValueError, r"shape \(3,\)"),
        (X, Y.float(), ValueError, "integers"),
        (X, Y + 3, ValueError, r"labels must be in 0 \.\. 4 for 5 logits"),
        (X, Y - 1, ValueError, r"labels must be in 0 \.\. 4"),
    ],
)
def test_clear_errors(x, y, error, says):
    model, _ = linear(0, torch.float32)
    with pytest.raises(error, match=says):
        PGD(Linf(0.1))(model, x, easy(y))


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"steps": 0}, "steps"), ({"random_start": 1.5}, "probability"), ({"step_size": -1.0}, "step_size")],
)
def test_fields_out_of_range(fields, says):
    with pytest.raises(ValueError, match=says):
        PGD(Linf(0.1), **fields)
