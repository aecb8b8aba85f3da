from collections import deque
from dataclasses import replace

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import nn

from easybn import L2, Linf
from easybn.attacks.attack import AttackState
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.runner import AttackRunner
from easybn.attacks.square import Square, kernel, share, sides, stages
from easybn.keyed_random import Noise

from ..small import small_images, small_net

BALLS = [Linf(0.05), L2(0.7)]
IDS = ["linf", "l2"]


class Watched(nn.Module):
    """A smooth function of images of any size that keeps what it was shown; its class 0 leads by far."""

    def __init__(self, shape, lead=100.0):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), 16), nn.Tanh(), nn.Linear(16, 4))
        self.net[3].bias.data[0] += lead
        self.seen = []

    def forward(self, x):
        self.seen.append(x.clone())
        return self.net(x)


def state_of(x, y=None):
    rows = torch.arange(len(x))
    return AttackState.create(rows, rows * 0 if y is None else y, rows * 0 - 1, rows * 0, rows + 1, x)


def walk(attack, net, state, queries):
    """The pattern and so many queries, one a pass; yields after each."""
    attack = replace(attack, min_active=0)
    attack.init(state)
    with attack_mode(net) as model, torch.no_grad():
        for query in range(queries + 1):
            attack.evaluate(model, state)
            yield
            if query < queries:
                attack.step(model, state)
                state["iteration"] = state["iteration"] + 1


def peer_of(ball, net, queries, **options):
    norm = "Linf" if isinstance(ball, Linf) else "L2"
    options = {"norm": norm, "eps": ball.eps, "n_queries": queries, "resc_schedule": False, **options}
    return SquareAttack(net, **options)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)  # the reference allocates in the default type
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("ball", BALLS, ids=IDS)
@pytest.mark.parametrize("p_init", [0.8, 0.3])
def test_the_schedule_is_that_of_the_reference(ball, p_init):
    peer, linf = peer_of(ball, None, 5000, p_init=p_init), isinstance(ball, Linf)
    stage = stages(torch.arange(10_001)).tolist()
    for query in range(10_001):
        assert share(query, p_init) == peer.p_selection(query)
    for height, width in ((28, 28), (32, 32), (224, 224), (28, 20), (8, 8), (4, 4), (1, 1)):
        ours = sides(p_init, height, width, linf)
        for query in range(10_001):
            side = max(round((peer.p_selection(query) * height * width) ** 0.5), 1 if linf else 3)
            side = side + 1 if not linf and side % 2 == 0 else side
            assert ours[stage[query]] == min(side, height, width)


@pytest.mark.usefixtures("float64")
def test_the_kernels_are_those_of_the_reference(monkeypatch):
    peer = peer_of(L2(1), None, 1)
    peer.device = "cpu"
    for side in (*range(1, 30), 44, 45):
        ours = kernel(side, torch.float64, torch.device("cpu"))
        for turned, number in enumerate((0.2, 0.8)):
            monkeypatch.setattr(torch, "rand", lambda shape, number=number: torch.full(shape, number))
            torch.testing.assert_close(ours[turned], peer.eta(side), rtol=0, atol=1e-15)


def draws_of(key, shape, linf, queries):
    """The numbers in [0, 1) that the reference has to draw to do what the row of that key does."""
    noise, (channels, height, width) = Noise(key), shape

    def places(bits):
        return [bit % 2**32 / 2**32 for bit in bits]

    def coins(bits):
        return [0.25 if bit < 0 else 0.75 for bit in bits]

    out = []
    start = noise.child("start")
    if linf:
        out += coins(start.bits(channels * width)[0].tolist())
    else:
        down, across = height // (height // 5), width // (height // 5)
        of_tile = start.bits(down * across * (1 + channels)).view(1 + channels, -1).T.tolist()
        for turn, *signs in of_tile:
            out += [1 - coins([turn])[0], *coins(signs)]
    for query in range(queries):
        bits = noise.numbered(query).bits(8)[0].tolist()
        if linf:
            out += [*places(bits[:2]), *coins(bits[2 : 2 + channels])]
        else:
            top, below, left, beside, turn, *signs = bits
            out += [*places([top, left, below, beside]), 1 - coins([turn])[0], *coins(signs[:channels])]
    return deque(out)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (2, 9, 13)], ids=str)
@pytest.mark.parametrize("ball", BALLS, ids=IDS)
def test_a_point_is_led_along_the_path_of_the_reference(ball, shape, monkeypatch):
    """With the same random numbers the reference shows the model the same image at every query."""
    queries, net = 260, Watched(torch.Size(shape))
    # pixels at 0 and 1 keep the l2 norm below eps: what is unused of eps would else be rounding, and its root noise
    x = torch.rand(1, *shape).mul(1.4).sub(0.2).clamp(0, 1)
    attack, state = Square(ball, queries), state_of(x)
    for _ in walk(attack, net, state, queries):
        pass
    ours, net.seen = torch.cat(net.seen), []
    draws = draws_of(state["key"], shape, isinstance(ball, Linf), queries)
    peer = peer_of(ball, net, queries)
    peer.init_hyperparam(x)
    monkeypatch.setattr(
        torch,
        "rand",
        lambda shape: torch.tensor([draws.popleft() for _ in range(torch.Size(shape).numel())]).view(shape),
    )
    _, best = peer.attack_single_run(x, torch.zeros(1, dtype=torch.int64))
    assert not draws
    theirs = torch.cat(net.seen)
    assert len(theirs) == len(ours) == queries + 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    better = state["loss"] > state["best_loss"]
    torch.testing.assert_close(state["image"] if better else state["best"], best, rtol=0, atol=1e-9)
    assert len(ours.flatten(1).unique(dim=0)) > queries / 2


@pytest.mark.parametrize(
    "shape", [(1, 28, 28), (3, 8, 8), (3, 12, 12), (1, 1, 1), (2, 3, 3), (1, 4, 40), (1, 40, 7)], ids=str
)
@pytest.mark.parametrize("ball", BALLS, ids=IDS)
def test_images_of_any_size_stay_in_the_ball_at_every_query(ball, shape):
    net, x = Watched(torch.Size(shape)), torch.rand(5, *shape)
    x[0], x[1] = 0, 1
    state = state_of(x)
    state["iteration"] = torch.tensor([0, 9, 50, 300, 3000])  # windows of all sizes side by side
    for _ in walk(Square(ball), net, state, 100):
        point = state["image"]
        assert point.shape == x.shape
        assert point.min() >= 0
        assert point.max() <= 1
        assert ball.distance(point, x).max() <= ball.eps + 1e-6
    assert x[0].numel() == 1 or (ball.distance(state["best"], x) > ball.eps / 20).all()


@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.3)], ids=IDS)
def test_verdicts_depend_on_neither_batch_nor_order(ball):
    """In float64, where another order of sums moves a loss by 1e-14, and no two losses of a path are so near.

    But for windows without any influence on the logits: whether one that changes nothing is taken is rounding's affair.
    So images are compared by what the model makes of them.
    """
    net, x = small_net().double(), small_images(12, dtype=torch.float64)
    y, ids = net(x).argmax(1), torch.arange(12) * 7

    def run(rows, batch_size):
        ranking = torch.zeros(len(rows), 3, dtype=torch.int64)
        with attack_mode(net) as model:
            runner = AttackRunner(model, Square(ball, 60), x[rows], y[rows], ids[rows], ranking, batch_size=batch_size)
            return runner.run()

    expected = run(torch.arange(12), 12)
    success = expected.success(float(ball.eps))
    assert 2 < success.sum() < 11
    for order, batch_size in ((torch.arange(12), 1), (torch.arange(11, -1, -1), 4), (torch.randperm(12), 7)):
        found = run(order, batch_size)
        back = order.argsort()
        torch.testing.assert_close(found.best_distance[back], expected.best_distance, rtol=0, atol=1e-7)
        torch.testing.assert_close(net(found.images[back][success]), net(expected.images[success]), rtol=0, atol=1e-6)
        assert torch.equal(found.columns["iteration"][back], expected.columns["iteration"])


@pytest.mark.parametrize("ball", [Linf(0.03), L2(0.3)], ids=IDS)
def test_as_many_points_fall_as_to_the_reference(ball):
    """Over some seeds: the reference draws one window for all points, so that its figure scatters more."""
    net, x, queries, seeds = small_net(), small_images(120), 60, 5
    y = net(x).argmax(1)
    net.requires_grad_(False)
    ours, theirs = [], []
    with attack_mode(net) as model:
        for seed in range(seeds):
            ranking = torch.zeros(len(x), 3, dtype=torch.int64)
            found = AttackRunner(model, Square(ball, queries), x, y, torch.arange(len(x)), ranking, seed=seed).run()
            ours.append(float(found.success(float(ball.eps)).double().mean()))
            images = peer_of(ball, net, queries, seed=seed).perturb(x, y)
            theirs.append(float((net(images).argmax(1) != y).double().mean()))
    a, b = torch.tensor(ours).double(), torch.tensor(theirs).double()
    assert 0.2 < a.mean() < 0.8
    assert abs(a.mean() - b.mean()) < 4 * float(((a.var() + b.var()) / seeds).sqrt())


def test_on_a_linear_model_every_pixel_that_windows_reach_ends_at_its_best():
    """In l-infinity the optimum is eps times the signs of the weights; windows leave out the far edge, as they do."""
    torch.manual_seed(3)
    weight = torch.randn(1, 1, 6, 6)

    class Linear(nn.Module):
        def forward(self, x):
            lift = (x * weight).flatten(1).sum(1)
            return torch.stack((1000 - lift, lift), 1)

    x = torch.full((3, 1, 6, 6), 0.5)
    state, start = state_of(x), []
    for _ in walk(Square(Linf(0.1), 1000), Linear(), state, 1000):
        start = start or [state["image"] - x]
    moved = state["best"] - x
    torch.testing.assert_close(moved[:, :, :5, :5], (0.1 * weight.sign()).expand_as(x)[:, :, :5, :5])
    for at_edge in (lambda image: image[:, :, 5], lambda image: image[:, :, :, 5]):
        assert torch.equal(at_edge(moved), at_edge(start[0]))


def test_a_robust_point_costs_one_pass_more_than_there_are_queries():
    net, x = Watched(torch.Size((1, 6, 6))), torch.rand(2, 1, 6, 6)
    with attack_mode(net) as model:
        zeros = torch.zeros(2, dtype=torch.int64)
        attack = Square(Linf(0.1), 25, restarts=2, min_active=0)
        found = AttackRunner(model, attack, x, zeros, torch.arange(2), zeros[:, None] + torch.arange(1, 4)).run()
    assert found.columns["restart"].tolist() == [0, 1, 0, 1]
    assert found.columns["forwards"].tolist() == [26] * 4
    assert found.columns["iteration"].tolist() == [25] * 4
    assert found.columns["backwards"].sum() == 0
    assert sum(map(len, net.seen)) == 4 * 26


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf], ids=str)
def test_logits_that_never_change_are_no_progress(value):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), value)

    state, seen = state_of(torch.rand(2, 1, 6, 6)), []
    for _ in walk(Square(Linf(0.1), 5), Constant(), state, 5):
        seen.append(state["image"])
    assert torch.equal(state["best"], seen[0])
    assert not all(torch.equal(point, seen[0]) for point in seen)


def test_arguments_out_of_range():
    for options in ({"queries": 0}, {"restarts": 0}, {"p_init": 0.0}, {"p_init": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Square(Linf(0.1), **options)
    with pytest.raises(ValueError, match="L2 and Linf"):
        Square(0.1)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 1, 6), (6, 1, 1), (1, 2, 1, 3)], ids=str)
@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.3)])
def test_points_of_any_shape_fall_where_a_linear_model_lets_them(shape, ball):
    weight = torch.tensor([1.0, -2.0, 0.5, 1.5, -1.0, 2.0])

    class Linear(nn.Module):
        def forward(self, x):
            z = (x.flatten(1) - 0.5) @ weight
            return torch.stack((margins - z, z), 1)

    # in l-infinity every coordinate moves by eps; in l2 a random search comes within some of the best direction
    reach = 2 * float(ball.eps) * float(weight.abs().sum() if isinstance(ball, Linf) else weight.norm())
    for part, falls in ((0.9 if isinstance(ball, Linf) else 0.25, True), (1.05, False)):
        margins = part * reach
        x, y = torch.full((3, *shape), 0.5), torch.zeros(3, dtype=torch.int64)
        with attack_mode(Linear()) as model:
            ranking = torch.ones(3, 1, dtype=torch.int64)
            result = AttackRunner(model, Square(ball, 300), x, y, torch.arange(3), ranking).run()
        assert result.success(float(ball.eps)).tolist() == [falls] * 3
