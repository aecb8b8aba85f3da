"""Distances and segments against linear and quadratic models, whose geometry has closed forms."""

import itertools

import pytest
import torch
from torch import nn

from easybn.attacks.losses import margin
from easybn.data.split import Split
from easybn.keyed_random import Noise
from easybn.metrics.boundary import (
    Boundary,
    along,
    changes_between,
    distance_to_change,
    partners,
    random_direction,
)
from easybn.metrics.instrument import Subject
from easybn.metrics.linearity import Linearity, value_and_gradient
from easybn.metrics.registry import instruments
from easybn.perturb.ball import L2, Linf
from easybn.stats import accuracy_interval

from ..small import small_images, small_net

N, CLASSES = 12, 4
X = 0.3 + 0.4 * small_images(N, dtype=torch.float64)  # no pixel meets the ends of [0, 1] on short paths
IDS = torch.arange(N)
BALLS = [Linf(0.25), L2(1.0)]


def linear_net(classes: int = CLASSES, seed: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).double()
    with torch.no_grad():
        net[1].bias -= net(X).mean(0)  # every class is near
    return net


class Quadratic(nn.Module):
    """Two classes, logits 0 and radius^2 - sum of a (x - c)^2: the second class is inside an ellipsoid around c."""

    def __init__(self, a: torch.Tensor, centre: torch.Tensor, radius: float):
        super().__init__()
        self.a, self.centre, self.radius = a, centre, radius

    def forward(self, x):
        inside = self.radius**2 - (self.a * (x - self.centre).square()).flatten(1).sum(1)
        return torch.stack((torch.zeros_like(inside), inside), 1)


def directions(net, x, y, ball):
    _, slope = value_and_gradient(net, x, y, margin)
    return {
        "random": random_direction(x, ball, Noise.of(0, "d", torch.arange(len(x)))),
        "adversarial": ball.steepest(slope),
        "easy": -ball.steepest(slope),
    }


@pytest.mark.parametrize("ball", BALLS, ids=["linf", "l2"])
def test_distances_of_a_linear_model(ball):
    """Along x + t d the margin to class k is m_k + t (w_y - w_k) d: the first that falls to 0 is the change."""
    net = linear_net().requires_grad_(False)
    y = net(X).argmax(1)
    weight = net[1].weight
    reached = 0
    for direction in directions(net, X, y, ball).values():
        found = distance_to_change(net, X, y, direction, ball, 10, 30)
        for i in range(N):
            lead = net(X)[i, y[i]] - net(X)[i]
            slope = (weight[y[i]] - weight) @ direction[i].flatten()
            roots = [float(lead[k] / -slope[k]) for k in range(CLASSES) if k != y[i] and slope[k] < 0]
            expected = min([root for root in roots if root <= ball.eps], default=torch.inf)
            assert float(found[i]) == pytest.approx(expected, abs=ball.eps / 10 / 2**30 + 1e-12)  # as promised
            reached += expected < torch.inf
    assert N < reached < 3 * N  # both kinds are there


def test_the_adversarial_direction_of_two_linear_classes_is_the_nearest():
    net = linear_net(2)
    y = net(X).argmax(1)
    w = (net[1].weight[0] - net[1].weight[1]).detach()
    lead = (net(X)[:, 0] - net(X)[:, 1]).abs().detach()
    for ball, dual in ((Linf(0.25), w.abs().sum()), (L2(2.5), w.norm())):
        paths = directions(net, X, y, ball)
        assert torch.allclose(distance_to_change(net, X, y, paths["adversarial"], ball, 10, 30), lead / dual, rtol=1e-6)
        assert not distance_to_change(net, X, y, paths["easy"], ball, 10, 3).isfinite().any()


@pytest.mark.parametrize("ball", BALLS, ids=["linf", "l2"])
def test_distances_of_a_quadratic_model(ball):
    """Inside an ellipsoid a path leaves it at the positive root of a quadratic equation."""
    a = 0.5 + small_images(1, seed=5, dtype=torch.float64)[0]
    net = Quadratic(a, X.mean(0), 3.0)
    y = net(X).argmax(1)
    assert y.all()
    for direction in directions(net, X, y, ball).values():
        offset = X - net.centre
        second = (a * direction.square()).flatten(1).sum(1)
        first = (a * direction * offset).flatten(1).sum(1)
        rest = (a * offset.square()).flatten(1).sum(1) - 9.0
        root = (-first + (first.square() - second * rest).sqrt()) / second
        expected = torch.where(root <= ball.eps, root, torch.inf)
        assert torch.allclose(distance_to_change(net, X, y, direction, ball, 10, 30), expected, rtol=1e-6)


@pytest.mark.parametrize("ball", [Linf(1.0), L2(8.0)], ids=["linf", "l2"])
def test_distances_are_those_of_a_slow_loop_one_image_at_a_time(ball):
    net = small_net().double().eval()
    x = small_images(N, seed=8, dtype=torch.float64)
    y = net(x).argmax(1)
    y[:2] = (y[:2] + 1) % CLASSES  # misclassified
    values = []
    for direction in directions(net, x, y, ball).values():
        found = distance_to_change(net, x, y, direction, ball, 8, 5)
        for i in range(N):
            assert float(found[i]) == pytest.approx(slow_distance(net, x[i], y[i], direction[i], ball), abs=1e-7)
        assert found[:2].tolist() == [0, 0]
        values += found[2:].tolist()
    assert torch.tensor(values).isfinite().sum() not in (0, len(values))


def slow_distance(net, x, y, direction, ball):
    """What :func:`distance_to_change` finds for one image with 8 steps and 5 halvings."""

    def wrong(distance):
        return int(net(path(x, direction, distance, ball)).argmax()) != int(y)

    for step in range(9):
        if wrong(step * ball.eps / 8):
            low, high = (step - 1) * ball.eps / 8, step * ball.eps / 8
            for _ in range(5 if step else 0):
                middle = (low + high) / 2
                low, high = (low, middle) if wrong(middle) else (middle, high)
            return float(ball.distance(path(x, direction, high, ball), x[None]))
    return torch.inf


def path(x, direction, distance, ball):
    """The point of clamp(x + t d) at a distance, by halving t."""
    point = lambda t: (x + t * direction).clamp(0, 1)[None]  # noqa: E731
    low, high = 0.0, 1e4
    for _ in range(60):
        t = (low + high) / 2
        low, high = (low, t) if ball.distance(point(t), x[None]) >= distance else (t, high)
    return point(high)


def test_paths_keep_their_distance_where_pixels_stop():
    x = small_images(N, dtype=torch.float64).round()  # black and white: half of all pixels cannot move
    for ball, longest in ((Linf(1.0), 1.0), (L2(9.0), 9.0)):
        direction = random_direction(x, ball, Noise.of(1, "d", IDS))
        for distance in (0.0, 0.01 * longest, longest):
            point = along(x, direction, torch.full((N,), distance, dtype=torch.float64), ball)
            assert 0 <= point.min() <= point.max() <= 1
            assert torch.allclose(ball.distance(point, x), torch.full((N,), distance, dtype=torch.float64), atol=1e-9)
            for i in range(N):
                assert torch.allclose(point[i : i + 1], path(x[i], direction[i], distance, ball), atol=1e-7)


def test_a_path_ends_where_nothing_moves():
    x = torch.tensor([[0.25, 1.0, 0.5], [0.2, 0.3, 0.4]], dtype=torch.float64)
    direction = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    point = along(x, direction, torch.tensor([5.0, 5.0], dtype=torch.float64), L2(9))
    assert point.tolist() == [[1.0, 1.0, 0.5], [0.2, 0.3, 0.4]]

    class Bright(nn.Module):  # the second class from a mean of 0.8
        def forward(self, x):
            return torch.stack((torch.full((len(x),), 0.8, dtype=x.dtype), x.mean(1)), 1)

    found = distance_to_change(Bright(), x, torch.tensor([0, 0]), direction, L2(9.0), 3, 10)
    assert found[0] == pytest.approx(0.65, abs=1e-2)  # the range is longer than the path
    assert found[1] == torch.inf


def test_class_changes_of_a_linear_model():
    """On a segment each logit is a straight line, and the classes are the pieces of the largest of them."""
    net = linear_net(7)
    pairs = list(itertools.combinations(range(N), 2))
    a, b = (X[list(rows)] for rows in zip(*pairs, strict=True))
    changes, differ = changes_between(net, a, b, 2048)
    start, end = net(a).detach(), net(b).detach()
    assert torch.equal(differ, start.argmax(1) != end.argmax(1))
    for count, first, last in zip(changes.tolist(), start, end, strict=True):
        at, now, expected = 0.0, int(first.argmax()), 0
        while True:  # which line crosses the present one next?
            meets = [
                (float((first[now] - first[k]) / ((last[k] - first[k]) - (last[now] - first[now]))), k)
                for k in range(7)
                if (last[k] - first[k]) > (last[now] - first[now])
            ]
            meets = [meet for meet in meets if at < meet[0] < 1]
            if not meets:
                break
            (at, now), expected = min(meets), expected + 1
        assert count == expected
    assert set(changes.tolist()) >= {0, 1, 2}


def test_changes_on_a_line_through_a_ball():
    """A segment that passes through the ellipsoid enters and leaves it."""
    net = Quadratic(torch.ones(4, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64), 0.3)
    corners = torch.tensor([[0.0, 0.5, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]], dtype=torch.float64)
    opposite = 1 - corners
    assert changes_between(net, corners, opposite, 32)[0].tolist() == [2, 2]
    assert changes_between(net, corners, opposite, 32)[1].tolist() == [False, False]
    assert changes_between(net, corners, corners.flip(0), 32)[0].tolist() == [0, 0]
    assert changes_between(net, corners, torch.full_like(corners, 0.5), 32)[0].tolist() == [1, 1]


def test_partners():
    y = torch.tensor([0, 1, 0, 2, 1, 0, 0, 1])
    drawn = {True: set(), False: set()}
    for same in (True, False):
        for seed in range(200):
            found = partners(y, Noise.of(seed, "p", torch.arange(8)), same)
            for i, other in enumerate(found.tolist()):
                if same and y[i] == 2:
                    assert other == -1  # the only one of its class
                else:
                    assert other != i
                    assert (y[other] == y[i]) == same
                    drawn[same].add((i, other))
    assert len(drawn[True]) == 4 * 3 + 3 * 2  # every pair comes
    assert len(drawn[False]) == 4 * 4 + 3 * 5 + 7


class Half(nn.Module):
    """Two classes by the mean of an image: the second from 0.5 on."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack((torch.full_like(mean, 0.5), mean), 1) * 100


def grey(levels: list[int], labels: list[int]) -> Subject:
    """Images of one grey each."""
    images = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    return Subject(Half(), Split(images, torch.tensor(labels)), torch.arange(len(levels)), 2, batch_size=3)


def test_the_instrument_counts_what_is_not_reached():
    levels = [20, 40, 60, 80, 100, 120, 140]  # the last is misclassified
    found = {(each.measure, each.place): each for each in Boundary(linf_range=0.3).measure(grey(levels, [0] * 7))}
    adversarial = found["distance_linf", "adversarial"]
    # 0.5 minus the grey: 0 for the misclassified, more than 0.3 for two of the others
    assert adversarial.value == pytest.approx(0.5 - 80 / 255, abs=0.3 / 100 / 2**8 + 1e-6)
    assert (adversarial.low, adversarial.high) == (0.0, 0.3)  # of 7 values the least and the largest, which is clamped
    assert adversarial.detail == {"range": 0.3, "reached": 5, "misclassified": 1}
    reached = found["reached_linf", "adversarial"]
    assert reached[4:8] == (7, 5 / 7, *accuracy_interval(5, 7))
    # easier is darker: never misclassified, but for the one that is
    assert found["distance_linf", "easy"].value == 0.3
    assert found["reached_linf", "easy"].value == 1 / 7
    # all pixels alike: the l2 distance is that times the root of their number
    assert found["distance_l2", "adversarial"].value == pytest.approx(4 * (0.5 - 80 / 255), abs=10 / 100 / 2**8 + 1e-6)
    assert ("changes", "different") not in found  # of images of one class there is no segment to another


def test_the_instrument_on_segments():
    levels, labels = [10, 30, 50, 200, 220, 240, 90], [0, 0, 0, 1, 1, 1, 1]  # the last is misclassified
    found = {(each.measure, each.place): each for each in Boundary(grid=1).measure(grey(levels, labels))}
    other = {
        kind: partners(torch.tensor(labels), segment_noise(kind), kind == "same") for kind in ("same", "different")
    }
    for kind, rows in other.items():
        ends = [(levels[i] > 127, levels[j] > 127) for i, j in enumerate(rows.tolist())]
        expected = torch.tensor([float(a != b) for a, b in ends])
        assert found["changes", kind].value == float(expected.double().mean())
        assert found["direct", kind].value == 1.0


def segment_noise(kind):
    return Noise.of(0, f"boundary: {kind}", torch.arange(7))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("boundary", {"grid": 0}, "boundary: grid must be at least 1, got 0"),
        ("boundary", {"halvings": -1}, "boundary: halvings must be at least 0, got -1"),
        ("boundary", {"linf_range": 8.0}, "an l-infinity eps of 8 exceeds"),
        ("boundary", {"l2_range": -1.0}, "boundary: l2_range must be a positive number"),
        ("boundary", {"radius": 1}, "boundary has no option 'radius'"),
        ("linearity", {"steps": 0}, "linearity: steps must be at least 1, got 0"),
        ("linearity", {"linf_eps": 2.0}, "an l-infinity eps of 2 exceeds"),
    ],
)
def test_options_that_make_no_sense(name, options, says):
    with pytest.raises(ValueError, match=says):
        instruments([name], {name: options})
    with pytest.raises(ValueError, match="an l2 eps of 5 exceeds all distances of images of 1 x 4 x 4"):
        Linearity(l2_eps=5.0).measure(grey([1, 2], [0, 0]))
