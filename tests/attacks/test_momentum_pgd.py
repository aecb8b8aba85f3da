"""The attacks of preset fast: optima of linear models, MALT's order by a slow loop, margins, passes, where they end."""

import pytest
import torch
from torch import nn

from easybn import L2, Linf
from easybn.attacks.attack import AttackState
from easybn.attacks.attack_mode import attack_mode
from easybn.attacks.losses import margin, towards
from easybn.attacks.momentum_pgd import MomentumPGD, malt_order
from easybn.attacks.registry import ATTACKS, PRESETS
from easybn.attacks.runner import AttackRunner

from ..small import small_images, small_net

BALLS = [pytest.param(Linf(0.02), id="linf"), pytest.param(L2(0.2), id="l2")]


class Watched(nn.Module):
    """Counts the images that go forward and backward through a model, and keeps those that it saw."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen, self.backwards = model, [], 0

    def forward(self, x):
        self.seen.append(x.detach().clone())
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backwards += len(gradient)


class LinearLogits(nn.Module):
    """Logits that are linear in images (N, 3, 4, 4) near 0.5, of which class 0 is the largest by some margin."""

    def __init__(self, classes=5, lead=0.0, seed=1):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 48, generator=generator, dtype=torch.float64))
        self.lead = lead

    def forward(self, x):
        logits = (x.flatten(1) - 0.5) @ self.weight.T
        return logits + self.lead * nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), logits.shape[1])

    def optimum(self, ball):
        """The largest margin in the ball around the image 0.5, by the dual norm of each difference of weights."""
        slopes = (self.weight[1:] - self.weight[0]).detach()
        reach = slopes.abs().sum(1) if isinstance(ball, Linf) else slopes.norm(dim=1)
        return float(ball.eps) * float(reach.max()) - self.lead


def run(model, attack, x, y, **options):
    with attack_mode(model) as ready, torch.no_grad():
        ranking = model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]
        if isinstance(model, Watched):
            model.seen.clear()
        with torch.enable_grad():
            return AttackRunner(ready, attack, x, y, torch.arange(len(x)), ranking, **options).run()


def grey(n):
    return torch.full((n, 3, 4, 4), 0.5, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("name", PRESETS["fast"])
def test_the_margin_of_a_linear_model_reaches_its_maximum_in_the_ball(name, ball):
    # without a target an ascent may end at the maximum towards another class
    model, (x, y) = LinearLogits(5 if name == "malt" else 2, lead=100.0), grey(4)
    found = run(model, ATTACKS[name](ball), x, y)
    optimum, best = model.optimum(ball), found.columns["margin"]
    assert not found.success(float(ball.eps)).any()
    assert (best <= optimum + 1e-9).all()
    assert (best >= optimum - 1e-3 * (optimum + 100.0)).all()


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("name", PRESETS["fast"])
def test_passes_are_those_that_the_model_saw_and_the_margin_is_the_largest_seen(name, ball):
    model, x = Watched(small_net().double()), small_images(6, dtype=torch.float64)
    y = model.model(x).argmax(1)
    tiny = type(ball)(float(ball.eps) / 1000)
    found = run(model, ATTACKS[name](tiny), x, y)
    assert not found.success(float(tiny.eps)).any()
    assert sum(map(len, model.seen)) == found.columns["forwards"].sum()
    assert model.backwards == found.columns["backwards"].sum()
    seen = torch.cat(model.seen)
    distance, nearest = torch.stack([tiny.distance(seen, each[None].expand_as(seen)) for each in x]).min(0)
    with torch.no_grad():
        margins = margin(model.model(seen), y[nearest]).where(distance <= float(tiny.eps) * (1 + 1e-9), -torch.inf)
    largest = torch.stack([margins[nearest == row].max() for row in range(len(x))])
    # windows that are not chosen are no images of the attempt
    assert (found.columns["margin"] <= largest + 1e-12).all()
    if name == "malt":
        torch.testing.assert_close(found.columns["margin"], largest, rtol=0, atol=1e-12)


def test_where_it_succeeds_the_margin_is_the_models_at_the_kept_image():
    net, x = small_net().double(), small_images(8, dtype=torch.float64)
    y = net(x).argmax(1)
    found = run(net, MomentumPGD(Linf(0.05)), x, y)
    broken = found.success(0.05)
    assert broken.any()
    expected = margin(net(found.images[broken]).detach(), y[broken])
    torch.testing.assert_close(found.columns["margin"][broken], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("linf", [True, False])
def test_malts_order_is_that_of_a_loop_over_classes(linf):
    net, x = small_net(classes=7).double(), small_images(9, dtype=torch.float64)
    y = net(x).argmax(1)
    with attack_mode(net) as ready:
        order = malt_order(ready, x, y, linf)
    for row in range(len(x)):
        distance = {}
        for other in range(7):
            image = x[row : row + 1].clone().requires_grad_()
            z = net(image)[0]
            if other != y[row]:
                (slope,) = torch.autograd.grad(z[other] - z[y[row]], image)
                distance[other] = float((z[y[row]] - z[other]).detach() / (slope.abs().sum() if linf else slope.norm()))
        assert order[row].tolist() == sorted(distance, key=distance.__getitem__)


def test_classes_without_a_boundary_are_no_targets():
    class Few(nn.Module):
        def forward(self, x):
            z = x.flatten(1).sum(1)
            masked = torch.full_like(z, -torch.inf)
            return torch.stack((5 + z * 0, z, masked, z * 0), 1)

    x, y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    with attack_mode(Few()) as ready:
        assert malt_order(ready, x, y, True).tolist() == [[1, -1, -1]] * 2
    found = run(Few(), MomentumPGD(Linf(0.1), targets=3), x, y)
    assert found.columns["margin"].tolist() == pytest.approx([2.4 - 5] * 2)


def test_the_way_to_a_target():
    logits = torch.tensor([[3.0, 1.0, 2.0]] * 2)
    assert towards(logits, torch.zeros(2, dtype=torch.int64), torch.tensor([1, 2])).tolist() == [-2.0, -1.0]


@pytest.mark.parametrize("ball", BALLS)
def test_the_start_is_the_best_of_the_windows(ball):
    net, x = small_net().double(), small_images(5, dtype=torch.float64)
    y = net(x).argmax(1)
    attack, keys = MomentumPGD(ball, rounds=2, iterations=3, windows=7), torch.arange(5) + 3
    rows = torch.arange(5)
    state = AttackState.create(rows, y, rows * 0 - 1, rows * 0, keys, x)
    attack.init(state)
    state["iteration"] = rows * 0 + 4
    with attack_mode(net) as ready:
        attack.evaluate(ready, state)
    for row in range(5):
        alone = AttackState.select(state, rows == row)
        tried = torch.cat([attack._window(alone, torch.tensor([7 + each])) for each in range(7)])
        with torch.no_grad():
            best = tried[margin(net(tried), y[row].expand(7)).argmax()]
        torch.testing.assert_close(state["image"][row], best, rtol=0, atol=0)
        assert len(tried.unique(dim=0)) == 7
        assert (ball.distance(tried, x[row].expand_as(tried)) <= float(ball.eps) + 1e-12).all()


def test_it_ends_where_its_ascents_end_too_low_and_too_near_each_other():
    """Ascents of 4 steps; after the third, and after every later one, gap and spread decide."""
    attack = MomentumPGD(Linf(0.1), rounds=6, iterations=4, reach=2.0)
    x, rows = torch.rand(6, 1, 2, 2), torch.arange(6)
    state = AttackState.create(rows, rows * 0, rows * 0 - 1, rows * 0, rows, x)
    attack.init(state)
    # the last three: largest -1, and the smallest of an ascent -1.4, -1.6; no margin at all
    state["largest"] = torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0, -torch.inf], dtype=torch.float64)
    state["of_lowest_ascent"] = torch.tensor([-1.4, -1.4, -1.4, -1.4, -1.6, torch.inf], dtype=torch.float64)
    state["iteration"] = torch.tensor([9, 13, 14, 19, 14, 14])
    assert attack.ended(state).tolist() == [False, False, True, True, False, True]
    state["iteration"] = rows * 0 + attack.steps
    assert attack.ended(state).all()
    assert not MomentumPGD(Linf(0.1), targets=6, iterations=4).ended({**state, "iteration": rows * 0 + 14}).any()


def test_ascents_to_one_height_end_after_three_and_to_several_heights_go_on():
    """A linear model has one maximum; where a wave lies on a slope, each start leads to the top of another wave."""

    class Wave(nn.Module):
        def forward(self, x):
            z = (torch.sin(200 * x) + 20 * (x - 0.5)).flatten(1).mean(1)
            return torch.stack((6.0 - z, z), 1)

    x, y = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    attack = MomentumPGD(Linf(0.1), rounds=25, iterations=20)
    one = run(LinearLogits(2, lead=100.0), attack, *grey(3)).columns
    several = run(Wave(), attack, x, y).columns
    ascent = attack.iterations + 1
    assert one["iteration"].tolist() == [3 * ascent - 1] * 3
    assert one["forwards"].tolist() == [3 * ascent + 2 * attack.windows] * 3
    assert one["backwards"].tolist() == [3 * attack.iterations] * 3
    assert (several["iteration"] > 3 * ascent).all()


class Detour(nn.Module):
    """Margins of images of two pixels x = 0.5 + (u, v): near the middle they rise with u, to -0.001 at u = 0.01.

    Above v = 0.0095 they are positive, and far out along u the slope turns towards v.
    """

    def forward(self, x):
        u, v = (x - 0.5).flatten(1).unbind(1)
        decoy = u - 0.011 + (v - 2 * (u - 0.012)) * (u > 0.012)
        margin = torch.maximum(decoy, 3 * (v - 0.0095))
        return torch.stack((6 - margin, 6 + margin), 1) / 2


def test_a_ball_that_shrinks_leads_to_what_is_reached_from_outside_only():
    ball, x, y = L2(0.01), torch.full((16, 1, 1, 2), 0.5, dtype=torch.float64), torch.zeros(16, dtype=torch.int64)
    # in the ball it is reached from starts beside it alone
    narrow, wide = (run(Detour(), MomentumPGD(ball, targets=1, widest=widest), x, y) for widest in (1, 4))
    assert narrow.success(0.01).sum() < 8
    assert wide.success(0.01).all()
    assert (ball.distance(wide.images, x) <= 0.01 + 1e-7).all()  # kept in float32
    assert narrow.columns["margin"][~narrow.success(0.01)].max() == pytest.approx(-0.001, abs=1e-5)


@pytest.mark.parametrize("ball", BALLS)
def test_what_is_misclassified_outside_the_ball_alone_counts_for_nothing(ball):
    class Rim(nn.Module):
        """Wrong at images farther than 1.1 eps from grey, and surer of being right the nearer they are."""

        def forward(self, x):
            excess = ball.distance(x, torch.full_like(x, 0.5)) if not x.requires_grad else self.smooth(x)
            gap = excess - 1.1 * float(ball.eps)
            return torch.stack((1 - gap, 1 + gap), 1)

        def smooth(self, x):
            return (x - 0.5).flatten(1).norm(dim=1) if isinstance(ball, L2) else (x - 0.5).flatten(1).abs().amax(1)

    x, y = grey(3)
    for attack in (MomentumPGD(ball, rounds=3), MomentumPGD(ball, targets=1)):
        watched = Watched(Rim())
        found = run(watched, attack, x, y)
        far = torch.cat([ball.distance(seen, x[:1].expand_as(seen)) for seen in watched.seen])
        assert far.max() > 1.1 * float(ball.eps)
        assert far.max() <= attack.widest * float(ball.eps) * (1 + 1e-6)
        assert not found.success(float(ball.eps)).any()
        # the margin is that at the rim of the ball, -0.2 eps
        torch.testing.assert_close(found.columns["margin"], found.columns["margin"] * 0 - 0.2 * float(ball.eps))


def test_arguments_out_of_range():
    for options in (
        {"iterations": 0},
        {"rounds": 0},
        {"windows": 0},
        {"targets": -1},
        {"reach": -0.1},
        {"widest": 0.9},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            MomentumPGD(Linf(0.1), **options)
    with pytest.raises(ValueError, match="L2 and Linf"):
        MomentumPGD(0.1)
