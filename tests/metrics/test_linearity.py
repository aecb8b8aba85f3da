"""Departures from the tangent and gradient norms against linear and quadratic models, where they have closed forms."""

import pytest
import torch

from easybn.attacks.losses import margin
from easybn.keyed_random import Noise
from easybn.metrics.linearity import cross_entropy, gradient_norm, nonlinearity, value_and_gradient
from easybn.perturb.ball import L2, Linf

from ..small import small_images, small_net
from .test_boundary import IDS, N, Quadratic, X, linear_net


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.5)], ids=["linf", "l2"])
def test_two_linear_classes_are_linear_and_their_gradient_is_the_weight(ball):
    net = linear_net(2)
    y = net(X).argmax(1)
    assert nonlinearity(net, X, y, ball, margin, 5, Noise.of(0, "n", IDS)).max() < 1e-12
    w = (net[1].weight[0] - net[1].weight[1]).detach()
    dual = w.abs().sum() if isinstance(ball, Linf) else w.norm()
    assert torch.allclose(gradient_norm(value_and_gradient(net, X, y, margin)[1], ball), dual)
    # of the cross-entropy: the probability of the other class times the weight
    p = net(X).softmax(1).amin(1).detach()
    assert torch.allclose(gradient_norm(value_and_gradient(net, X, y, cross_entropy)[1], ball), p * dual)


def test_a_quadratic_departs_from_its_tangent_by_its_second_order_term():
    a = 0.5 + small_images(1, seed=5, dtype=torch.float64)[0]
    y = torch.ones(N, dtype=torch.int64)
    noise = Noise.of(0, "n", IDS)
    net = Quadratic(a, X.mean(0), 3.0)  # margin of class 1: 0 - inside, with second-order term sum a d^2
    found = nonlinearity(net, X, y, Linf(0.1), margin, 10, noise)
    assert torch.allclose(found, torch.full_like(found, float(0.01 * a.sum())))
    round_net = Quadratic(torch.full_like(a, 1.7), X.mean(0), 3.0)
    found = nonlinearity(round_net, X, y, L2(0.3), margin, 10, noise)
    assert torch.allclose(found, torch.full_like(found, 1.7 * 0.09))
    # the largest of all directions is that of the largest entry
    steep = torch.where(a == a.max(), 50.0, 0.1)
    found = nonlinearity(Quadratic(steep, X.mean(0), 3.0), X, y, L2(0.3), margin, 10, noise)
    assert torch.allclose(found, torch.full_like(found, 50.0 * 0.09), rtol=1e-3)
    # a cross-entropy is not linear even where the margin is
    assert nonlinearity(linear_net(2), X, y, Linf(0.1), cross_entropy, 5, noise).min() > 0


def test_nonlinearity_is_at_least_what_random_points_show():
    net, x = small_net().double().eval(), small_images(N, dtype=torch.float64)
    y, ball = net(x).argmax(1), Linf(0.1)
    centre, slope = value_and_gradient(net, x, y, cross_entropy)
    largest = torch.zeros(N, dtype=torch.float64)
    for seed in range(30):
        point = ball.random(x, Noise.of(seed, "r", IDS))
        tangent = centre + (slope * (point - x)).flatten(1).sum(1)
        largest = torch.maximum(largest, (cross_entropy(net(point), y) - tangent).abs().detach())
    found = nonlinearity(net, x, y, ball, cross_entropy, 10, Noise.of(0, "n", IDS))
    assert (found > largest).all()
    assert largest.min() > 0
