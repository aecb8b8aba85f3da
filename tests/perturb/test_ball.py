import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from easybn import L2, Linf
from easybn.keyed_random import Noise
from easybn.perturb.ball import l2_norm, rounding

BALLS = st.sampled_from([Linf, L2])
# distances in float32 pixels: half a unit in the last place of 1.0 and of eps, with room for a sum of 12 squares
ROUNDING = 3e-7


def images(low: float, high: float):
    shape = (3, 2, 2, 3)
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32)).map(torch.from_numpy)


@given(BALLS, st.floats(1e-3, 1.0), images(0, 1), images(-3, 3))
def test_projection_is_inside_ball_and_pixels_and_keeps_what_is_there(kind, eps, centre, point):
    ball = kind(eps)
    out = ball.project(point, centre)
    assert (ball.distance(out, centre) <= eps + ROUNDING).all()
    assert out.min() >= 0
    assert out.max() <= 1
    torch.testing.assert_close(ball.project(out, centre), out, atol=ROUNDING, rtol=0)


@given(st.floats(1e-3, 1.0), images(0, 1), images(-3, 3))
def test_linf_projection_is_the_nearest_point(eps, centre, point):
    """Against numpy's clip, twice, on float64: the exact projection on the intersection of two boxes."""
    low, high = np.maximum(centre.double().numpy() - eps, 0), np.minimum(centre.double().numpy() + eps, 1)
    expected = np.clip(point.double().numpy(), low, high)
    np.testing.assert_allclose(Linf(eps).project(point, centre).numpy(), expected, atol=ROUNDING)


@given(st.floats(1e-3, 0.3), images(0.375, 0.625), images(0.25, 0.75))
def test_l2_projection_scales_the_offset(eps, centre, point):
    """Far from the borders of [0, 1] it is the textbook formula."""
    offset = (point - centre).double().numpy().reshape(3, -1)
    norm = np.linalg.norm(offset, axis=1, keepdims=True)
    expected = np.clip(
        centre.double().numpy().reshape(3, -1) + offset * np.minimum(1, eps / np.maximum(norm, 1e-12)), 0, 1
    )
    np.testing.assert_allclose(L2(eps).project(point, centre).numpy().reshape(3, -1), expected, atol=ROUNDING)


@given(BALLS, st.floats(1e-3, 0.2), images(0, 1), images(-3, 3))
def test_each_point_has_a_radius_of_its_own(kind, eps, centre, point):
    together = kind(eps).project(point, centre, torch.tensor([1.0, 2.5, 4.0], dtype=torch.float64))
    for row, times in enumerate((1.0, 2.5, 4.0)):
        alone = kind(eps * times).project(point[row : row + 1], centre[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=ROUNDING)


@given(BALLS, images(-1, 1))
def test_steepest_direction_attains_the_dual_norm(kind, gradient):
    """max over the unit ball of <g, d> is the dual norm of g: l1 for l-infinity, l2 for itself."""
    direction = kind(0.1).steepest(gradient)
    flat = gradient.double().flatten(1)
    dual = flat.abs().sum(1) if kind is Linf else flat.norm(dim=1)
    torch.testing.assert_close((flat * direction.double().flatten(1)).sum(1), dual, rtol=1e-5, atol=1e-7)
    nonzero = (gradient != 0).flatten(1).any(1)
    zero = torch.zeros_like(gradient)
    torch.testing.assert_close(kind(0.1).distance(direction, zero), nonzero.double(), rtol=1e-5, atol=0)


def test_l2_direction_survives_gradients_whose_squares_underflow():
    gradient = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3e30, -4e30]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]])
    torch.testing.assert_close(L2(1).steepest(gradient), expected)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.4)])
def test_random_points_fill_the_ball_evenly(ball):
    n, shape = 20_000, (1, 1, 2)
    centre = torch.full((n, *shape), 0.5)
    offset = (ball.random(centre, Noise.of(0, "r", torch.arange(n))) - centre).flatten(1).double()
    size = ball.distance(offset, torch.zeros_like(offset)) / ball.eps
    assert size.max() <= 1 + 1e-5
    # in two dimensions the share within r of the centre is r squared, for either ball
    for r in (0.3, 0.5, 0.8):
        assert abs(float((size < r).double().mean()) - r**2) < 4.5 * (r**2 * (1 - r**2) / n) ** 0.5
    assert offset.mean(0).abs().max() < 4.5 * ball.eps / n**0.5


def test_random_points_stay_pixels_at_the_border():
    centre = torch.tensor([0.0, 1.0]).repeat(50, 1)
    for ball in (Linf(0.3), L2(0.5)):
        point = ball.random(centre, Noise.of(0, "r", torch.arange(50)))
        assert point.min() >= 0
        assert point.max() <= 1
        assert not torch.equal(point, centre)


def test_distances():
    a, b = torch.tensor([[0.0, 0.5]]), torch.tensor([[0.3, 0.1]])
    assert float(Linf(1).distance(a, b)) == pytest.approx(0.4)
    assert float(L2(1).distance(a, b)) == pytest.approx(0.5)


@pytest.mark.parametrize("eps", [0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [Linf, L2])
def test_refuses_an_eps_that_is_no_radius(kind, eps):
    with pytest.raises(ValueError, match="eps must be a positive number"):
        kind(eps)


def test_suspects_units_of_255():
    with pytest.raises(ValueError, match="units of /255"):
        Linf(8)
    assert L2(8).eps == 8


def test_fractions_are_numbers():
    assert Linf("8/255") == Linf(8 / 255)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 224, 224), (3, 512, 512)], ids=str)
def test_norms_of_large_images_are_accurate(shape):
    """Pixels of one size, as sign steps leave them: torch's own norm is off by up to 4e-4 there."""
    signs = torch.randn(2, *shape).sign()
    for size in (0.0773, 3e-4):
        exact = size * math.sqrt(math.prod(shape))
        assert l2_norm(size * signs).tolist() == pytest.approx([exact, exact], rel=5e-7)
        assert l2_norm((size * signs).bfloat16()).tolist() == pytest.approx([exact, exact], rel=5e-3)
    centre = torch.full((2, *shape), 0.5)
    for eps in (0.5, 3.0):
        reached = L2(eps).distance(L2(eps).project(centre + signs, centre), centre)
        assert reached.tolist() == pytest.approx([eps, eps], abs=rounding(shape))
