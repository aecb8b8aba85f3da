"""CLEVER scores, against closed forms and the enumeration of a small network's linear pieces."""

import math

import pytest
import torch
from torch import Tensor, nn

from easybn import evaluate
from easybn.attacks.attack_mode import attack_mode
from easybn.keyed_random import Noise
from easybn.metrics.clever import RADII, clever
from easybn.metrics.clever_instrument import Clever
from easybn.metrics.gradient_maxima import gradient_maxima, gradient_norms, random_points
from easybn.metrics.instrument import Measured

from ..small import small_images, small_net

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


def length(vectors: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(vectors.flatten(1).double(), order, dim=1)


def linear_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double()


def labelled(net: nn.Module, n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Random images that are classified correctly."""
    x = small_images(n, dtype=dtype)
    with torch.no_grad():
        return x, net(x).argmax(1)


class Gap(nn.Module):
    """Two classes: logits 0 and minus a function of images (N, d)."""

    def __init__(self, gap):
        super().__init__()
        self.gap = gap

    def forward(self, x):
        z = self.gap(x.flatten(1))
        return torch.stack([torch.zeros_like(z), -z], 1)


QUICK = {"maxima": 10, "samples": 4, "search": 0}


@pytest.mark.parametrize("norm", RADII)
def test_of_a_linear_model_the_score_is_exact(norm):
    net = linear_net()
    x, y = labelled(net, 3)
    scores = clever(net, x, y, norm=norm, radius=100.0, **QUICK)
    logits, weight = net(x).detach(), net[1].weight.detach()
    assert len(scores.targets) == 9
    for row in scores.targets:
        c = int(y[row.point])
        margin = float(logits[row.point, c] - logits[row.point, row.target])
        lipschitz = float(length((weight[c] - weight[row.target])[None], DUAL[norm]))
        assert row.margin == pytest.approx(margin)
        assert row.lipschitz == pytest.approx(lipschitz)
        assert row.score == pytest.approx(margin / lipschitz)
        assert row.low == pytest.approx(row.score)
        assert row.high == pytest.approx(row.score)
        assert (row.status, row.capped) == ("constant", False)
    for i, point in enumerate(scores.points):
        least = min((row for row in scores.targets if row.point == i), key=lambda row: row.score)
        assert (point.point, point.target, point.score) == (i, least.target, least.score)


def test_a_score_beyond_the_radius_is_the_radius_and_says_so():
    net = linear_net()
    x, y = labelled(net, 2)
    scores = clever(net, x, y, radius=1e-4, **QUICK)
    assert all(point.capped and point.score == 1e-4 for point in scores.points)
    assert scores.summary()["capped"] == 2
    assert "2 scores are the radius 0.0001" in str(scores)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("dimensions", [1, 3])
def test_points_are_uniform_in_the_ball_and_inside_the_pixels(norm, dimensions):
    n, radius = 4000, 0.2
    centre = torch.full((n, dimensions), 0.5)
    moved = random_points(norm, radius, centre, Noise.of(0, "test", torch.arange(n))) - 0.5
    far = length(moved, NORMS[norm])
    assert far.max() <= radius * (1 + 1e-6)
    for share in (0.5, 0.8):  # the volume of a ball grows with the power of the dimension
        expected = share**dimensions
        assert float((far < share * radius).float().mean()) == pytest.approx(expected, abs=0.04)
    assert float(moved.mean()) == pytest.approx(0, abs=0.01)
    if dimensions == 3:
        assert float((moved.sign().prod(1) > 0).float().mean()) == pytest.approx(0.5, abs=0.04)
    dark = random_points(norm, radius, torch.zeros(50, dimensions), Noise.of(0, "test", torch.arange(50)))
    assert dark.min() == 0


@pytest.mark.parametrize("norm", RADII)
def test_of_a_small_relu_network_the_steepest_piece_is_found(norm):
    radius, x0 = 0.3, torch.full((1, 2), 0.5, dtype=torch.float64)
    axis = torch.linspace(-radius, radius, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    inside = grid[length(grid, NORMS[norm]) <= radius] + x0
    exact = 0
    for seed in range(4):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        with torch.no_grad():
            net[0].bias.copy_(-(net[0].weight @ x0[0]) + 0.05 * torch.randn(6))  # kinks near the image
            y = net(x0).argmax(1)
            patterns, counts = (net[0](inside) > 0).unique(dim=0, return_counts=True)
        first, last = net[0].weight.detach(), net[2].weight.detach()
        assert len(patterns) > 4
        scores = clever(net, x0, y, norm=norm, radius=radius, maxima=10, samples=400, search=0)
        for row in scores.targets:
            out = last[int(y)] - last[row.target]
            slopes = length((patterns * out) @ first, DUAL[norm])
            large = counts > 0.02 * len(inside)  # pieces that 400 points do not miss
            assert slopes[large].max() * (1 - 1e-9) <= row.largest <= slopes.max() * (1 + 1e-9)
            assert row.lipschitz >= row.largest
            if large[slopes.argmax()]:
                exact += 1
                assert row.status == "constant"
                assert row.lipschitz == pytest.approx(float(slopes.max()))
    assert exact >= 3


def test_of_a_smooth_model_the_location_is_extrapolated_from_maxima_of_points_of_their_own():
    bowl = Gap(lambda x: 1 - (x - 0.5).square().sum(1) / 2)  # the gradient's norm is the distance from the image
    x = torch.full((1, 2), 0.5, dtype=torch.float64)
    scores = clever(bowl, x, torch.tensor([0]), radius=0.4, maxima=100, samples=50, search=0)
    (row,) = scores.targets
    assert row.margin == 1
    assert 0.39 < row.largest < 0.4
    assert row.lipschitz == pytest.approx(0.4, rel=2e-3)
    assert row.score == 0.4  # 1 / 0.4 is beyond the ball
    assert row.status in ("fitted", "at largest")
    assert row.p > 0.05
    with attack_mode(bowl, probe=x) as model:
        noise = Noise.of(0, "clever/l2", torch.tensor([0]))
        maxima = gradient_maxima(model, x[0], 0, [1], noise, norm="l2", radius=0.4, maxima=100, samples=50)
        assert len(maxima.unique()) == 100
        points = random_points(
            "l2", 0.4, x.expand(5000, 2), Noise(noise.keys.expand(5000)).numbered(torch.arange(5000))
        )
        norms = gradient_norms(model, points, 0, [1], "l2")
        assert torch.allclose(norms[0], length(points - 0.5, 2))
        assert torch.allclose(maxima, norms.view(1, 100, 50).amax(2))


def test_batches_and_other_images_do_not_matter():
    net = small_net().double()
    x, y = labelled(net, 4)
    options = {"maxima": 12, "samples": 5, "search": 0}
    scores = clever(net, x, y, **options)
    assert scores == clever(net, x, y, **options)
    for other in (
        clever(net, x, y, batch_size=7, **options).targets,
        clever(net, x[1:3], y[1:3], ids=torch.tensor([1, 2]), **options).targets,
    ):
        mine = [row for row in scores.targets if row.point in {each.point for each in other}]
        for a, b in zip(mine, other, strict=True):
            assert (a.point, a.target, a.status) == (b.point, b.target, b.status)
            assert (a.score, a.low, a.high, a.ks) == pytest.approx((b.score, b.low, b.high, b.ks), rel=1e-6)
    assert clever(net, x, y, seed=1, **options).targets[0].largest != scores.targets[0].largest


def test_targets_are_the_nearest_of_the_linear_model_or_those_asked_for():
    net = linear_net()
    x, y = labelled(net, 5)
    every = clever(net, x, y, **QUICK)
    nearest = clever(net, x, y, targets=1, **QUICK)
    assert [p.target for p in nearest.points] == [p.target for p in every.points]
    assert len(nearest.targets) == 5
    asked = torch.stack([(y + 1) % 4, (y + 3) % 4], 1)
    rows = clever(net, x, y, targets=asked, **QUICK).targets
    assert [row.target for row in rows] == asked.flatten().tolist()


@pytest.mark.parametrize("norm", RADII)
def test_adversarial_images_that_are_found_are_where_a_linear_model_has_them(norm):
    net = linear_net()
    x, y = labelled(net, 3)
    scores = clever(net, x, y, norm=norm, radius=100.0, maxima=10, samples=1, search=20)
    for point in scores.points:
        # no nearer than is possible, and in FAB's own norms hardly farther (it stays within the pixels)
        assert point.score * 0.999 < point.distance < math.inf
        if norm != "l1":
            assert point.distance < 1.1 * point.score
    assert scores.summary()["compared"] == 3


def test_a_steep_place_that_random_points_miss_is_flagged_where_an_adversarial_image_is_known():
    """One coordinate of 50 above 0.9 turns the class: the score knows nothing of it."""
    cliff = Gap(lambda x: 1 + 0.01 * x.sum(1) - 1e3 * torch.relu(x[:, 0] - 0.9))
    x, y = torch.full((2, 50), 0.5, dtype=torch.float64), torch.tensor([0, 0])
    scores = clever(cliff, x, y, radius=3.0, maxima=10, samples=1, search=0, seed=1)
    assert not any(point.exceeds for point in scores.points)  # nothing known
    known = scores.with_distances([0.42, math.inf])
    narrow = clever(cliff, x, y, radius=0.45, **QUICK).with_distances([0.42, math.inf])
    assert narrow.points[0].score == 0.45
    assert [point.exceeds for point in narrow.points] == [True, False]
    assert narrow.summary()["exceeding"] == 1
    assert "not a bound: on 1 of 1 images it exceeds the distance of an adversarial image" in str(narrow)
    assert known.summary()["compared"] == 1
    with pytest.raises(ValueError, match="1 distances for 2 images"):
        scores.with_distances([1.0])


def test_the_distances_of_an_evaluation_stand_beside_the_scores():
    net = linear_net()
    x, y = labelled(net, 3)
    y[1] = (y[1] + 1) % 4
    scores = clever(net, x, y, radius=100.0, maxima=10, samples=1, search=0)
    eps = 1.5 * max(point.score for point in scores.points)
    found = evaluate(net, x, y, norm="l2", eps=eps, attacks="fab-t", diagnosis=False, ids=[7, 5, 6])
    nearest = found.record.nearest(found.points)
    assert nearest[1] == 0  # misclassified as it is
    assert found.record.nearest([8, 6]).tolist() == [math.inf, nearest[2]]
    beside = scores.with_distances(nearest)
    for point in (beside.points[0], beside.points[2]):
        assert point.score * 0.999 < point.distance <= eps
    assert beside.summary()["compared"] == 2


def test_fits_that_tell_nothing_are_named():
    x, y = torch.full((1, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    flat = clever(Gap(lambda x: 1 + 0 * x.sum(1)), x, y, radius=0.2, **QUICK)
    assert [(p.status, p.score, p.capped) for p in flat.points] == [("zero gradient", 0.2, True)]
    broken = clever(Gap(lambda x: 1 + (x - x).sum(1).abs().sqrt()), x, y, radius=0.2, **QUICK)
    assert [(p.status, p.score, p.low) for p in broken.points] == [("not finite", 0.0, 0.0)]
    assert "1 scores by a Lipschitz constant that is unknown" in str(broken)
    steps = Gap(lambda x: 9 + torch.relu(x[:, 0] - 0.5) + 2 * torch.relu(x[:, 1] - 0.69))  # norms of 0, 1, 2 and more
    few = clever(steps, x, y, radius=0.2, maxima=40, samples=4, search=0)
    assert [(t.status, t.capped) for t in few.targets] in ([("at largest", True)], [("poor fit", True)])


def test_images_that_are_misclassified_have_no_score():
    net = linear_net()
    x, y = labelled(net, 3)
    y[1] = (y[1] + 1) % 4
    scores = clever(net, x, y, maxima=10, samples=1, search=2)
    assert [p.status == "misclassified" for p in scores.points] == [False, True, False]
    assert (scores.points[1].score, scores.points[1].distance, scores.points[1].exceeds) == (0, 0, False)
    assert {row.point for row in scores.targets} == {0, 2}
    row = scores.summary()
    assert (row["images"], row["misclassified"]) == (2, 1)
    assert row["mean"] == pytest.approx((scores.points[0].score + scores.points[2].score) / 2)
    assert math.isnan(clever(net, x[1:2], y[1:2], **QUICK).summary()["mean"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, "the norm must be one of linf, l2, l1, got 'l3'"),
        ({"radius": 0}, "the radius must be a positive number, got 0"),
        ({"radius": math.nan}, "the radius must be a positive number, got nan"),
        ({"maxima": 9}, "maxima must be at least 10, got 9"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"targets": 0}, "at least one target, got 0"),
        ({"targets": torch.zeros(3, 1)}, r"targets must be classes \(2, T\)"),
        ({"targets": torch.full((2, 1), 9)}, "targets must be in 0 .. 3, and none of them the image's own class"),
    ],
)
def test_bad_arguments(options, message):
    net = linear_net()
    x, y = labelled(net, 2)
    with pytest.raises(ValueError, match=message):
        clever(net, x, y, **{**QUICK, **options})


def test_a_model_without_gradient_is_refused():
    with pytest.raises(ValueError, match="CLEVER needs the gradient of the model"):
        clever(Gap(lambda x: x.detach().sum(1)), torch.full((1, 2), 0.5), torch.tensor([0]), **QUICK)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"maxima": 5}, "clever: maxima must be at least 10, got 5"),
        ({"l2": 0.0, "linf": 0.0}, "clever: a radius above 0 in one norm at least"),
        ({"linf": -0.1}, "clever: linf must be at least 0, got -0.1"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Clever(**fields)


def test_the_sentence_compares_scores_and_counts_those_that_are_too_high():
    def values(score: float, too_high: float) -> list[Measured]:
        return [
            Measured("clever", "l2", "mean CLEVER score", 0, 20, score, score - 0.1, score + 0.1),
            Measured("clever", "l2", "mean distance of found adversarials", 2, 20, 9.0),
            Measured("too_high", "l2", "share of images", 0, 20, too_high, 0.0, 1.0),
        ]

    sentence = Clever.sentence({"a": values(0.5, 0.0), "b": values(1.5, 0.1)})
    assert "mean CLEVER score (l2): highest b 1.50" in sentence
    assert sentence.endswith("2 of 40 scores exceed the distance of an adversarial image that was found.")
