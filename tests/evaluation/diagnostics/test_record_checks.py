"""What the record of an evaluation tells: Square, distances, images classified again, numbers of points."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from easybn import convert, route
from easybn.evaluation import accuracy_interval, evaluate
from easybn.evaluation.diagnostics import diagnose
from easybn.evaluation.diagnostics.cross_checks import rescored
from easybn.evaluation.diagnostics.inputs import ENOUGH, few_points, perturbation, points_for
from easybn.evaluation.diagnostics.square import square
from easybn.evaluation.record import CLEAN, Record, Stage

from ...small import small_images, small_net
from .test_behaviour import Around

EPS = 8 / 255


def _findings(check, model, x, y, norm="linf", eps=EPS, **how):
    return diagnose(model, x, y, norm=norm, eps=eps, checks={"check": check}, **how)


def _recorded(n: int, *stages: tuple[str, int]) -> Record:
    """n points of which each stage in turn breaks the first so many that still stand."""
    standing = np.arange(n)
    rows = [Record.of(CLEAN, standing, success=False, distance=np.inf, forwards=1)]
    for attack, breaks in stages:
        success = np.arange(len(standing)) < breaks
        rows.append(Record.of(Stage(attack, EPS), standing, success=success, distance=np.where(success, EPS, np.inf)))
        standing = standing[~success]
    return Record.joined(rows)


@pytest.mark.parametrize(
    ("n", "stages", "severity"),
    [
        (100, [("apgd-ce", 60), ("square", 2)], "warning"),
        (100, [("apgd-ce", 60), ("square", 1)], "ok"),  # a single point may be luck
        (1000, [("apgd-ce", 60), ("square", 2)], "ok"),  # 0.2 points, as the reference allows
        (1000, [("apgd-ce", 60), ("fab-t", 5), ("square", 3)], "warning"),
        (100, [("square", 50), ("apgd-ce", 30)], "ok"),  # Square came first
        (100, [("apgd-ce", 60)], None),
        (100, [("square", 60)], None),
    ],
)
def test_square_beating_attacks_that_see_gradients(trained, n, stages, severity):
    model, x, y = trained
    found = _findings(square, model, x, y, record=_recorded(n, *stages))
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_square_beating_real_attacks_on_a_rounding_model(trained):
    model, x, y = trained
    right = (model(x).argmax(1) == y).nonzero()[:4, 0]
    x, y = x[right], y[right]
    masked = Around(model, lambda net, z: net((z * 8).round() / 8))
    evaluation = evaluate(masked, x, y, norm="linf", eps=0.3, attacks=["apgd-ce", "square"])
    assert _findings(square, masked, x, y, eps=0.3, evaluation=evaluation)[0].severity == "warning"
    healthy = evaluate(model, x, y, norm="linf", eps=0.3, attacks=["apgd-ce", "square"])
    assert all(found.fine for found in _findings(square, model, x, y, eps=0.3, evaluation=healthy))


def _with_distances(distance: np.ndarray, standing: int = 5) -> Record:
    found, n = len(distance), len(distance) + standing
    clean = Record.of(CLEAN, np.arange(n), success=False, distance=np.inf)
    tried = Record.of(Stage("apgd-ce", EPS), np.arange(found), success=True, distance=distance)
    return Record.joined([clean, tried])


@pytest.mark.parametrize(
    ("distance", "standing", "severity"),
    [
        (np.full(ENOUGH, 0.5 * EPS), 5, "warning"),
        (np.full(ENOUGH - 1, 0.5 * EPS), 5, "ok"),  # too few to tell
        (np.full(ENOUGH, 0.5 * EPS), 0, "ok"),  # all fell: no need to go farther
        (np.linspace(0.1, 1, ENOUGH) * EPS, 5, "ok"),
        (np.array([EPS, 1.01 * EPS]), 5, "warning"),
    ],
)
def test_distances_against_eps(trained, distance, standing, severity):
    (found,) = _findings(perturbation, *trained, record=_with_distances(distance, standing))
    assert found.severity == severity


def test_vanishing_steps_are_seen_in_the_distance(trained):
    model, x, y = trained
    right = (model(x).argmax(1) == y).nonzero()[:30, 0]  # the others move as far as they may
    x, y = x[right], y[right]
    confident = Around(model, lambda net, z: 100 * net(z))
    for net, severity in ((confident, "warning"), (model, "ok")):
        evaluation = evaluate(net, x, y, eps=0.3, steps=10, protocol="robustness")
        (found,) = _findings(perturbation, net, x, y, "l2", 0.3, evaluation=evaluation)
        assert found.severity == severity


def test_images_kept_are_classified_again():
    model = convert(small_net(), ("main", "easy"))
    for norm in model.modules():
        if isinstance(norm, nn.ModuleDict):
            norm["easy"].running_mean.add_(0.3)
            norm["easy"].weight.data.mul_(-1)
    x = small_images(60)
    with route(model, "easy"):
        y = model(x).argmax(1)
        evaluation = evaluate(model, x, y, norm="linf", eps=0.05, steps=5, keep_images=True)
        assert _findings(rescored, model, x, y, evaluation=evaluation)[0].fine
    (found,) = _findings(rescored, model, x, y, evaluation=evaluation)
    assert found.severity == "warning"
    assert "branch 'easy' (where 0 differ) instead of 'main'" in found.why
    (stranger,) = _findings(rescored, small_net(seed=5), x, y, evaluation=evaluation)
    assert "another model" in stranger.why
    bare = evaluate(model, x, y, norm="linf", eps=0.05, steps=2)
    assert _findings(rescored, model, x, y, evaluation=bare) == []


def test_images_of_a_randomised_model_are_classified_again_many_times():
    """One pass in four answers another class, whatever the image is: no attack adds to that."""
    net, x = small_net(), small_images(60)
    y = net(x).argmax(1)

    def mostly(model, z):
        return torch.where(torch.rand(len(z), 1) < 0.25, model(z).roll(1, 1), model(z))

    dice = Around(net, mostly).eval()
    evaluation = evaluate(dice, x, y, norm="linf", eps=1e-4, steps=5, keep_images=True, diagnosis=False)
    assert torch.equal(evaluation.robust, evaluation.clean)
    (found,) = _findings(rescored, dice, x, y, evaluation=evaluation)
    assert found.severity == "note"
    mean, low, high = (float(share) for share in re.findall(r"([\d.]+)%", found.how_much)[:3])
    assert low < mean < high
    assert mean == pytest.approx(75, abs=5)  # of 1,200 answers: 4 standard deviations
    assert f"by most passes over an image {evaluation.robust_accuracy:.1%} of 60 points are robust" in found.how_much


def test_few_points_are_said_with_how_many_it_takes(trained):
    model, x, y = trained
    (found,) = _findings(few_points, model, x[:40], y[:40])
    assert found.severity == "note"
    evaluation = evaluate(model, x[:40], y[:40], attacks="clean")
    (same,) = _findings(few_points, model, x[:40], y[:40], evaluation=evaluation)
    assert same == found
    assert _findings(few_points, model, x, y)[0].fine == (
        accuracy_interval(int((model(x).argmax(1) == y).sum()), 200).half_width <= 0.05
    )


@pytest.mark.parametrize("accuracy", [0.0, 0.01, 0.2, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("wanted", [0.01, 0.03, 0.2])
def test_the_number_of_points(accuracy, wanted):
    def half(n: int) -> float:
        z = 1.959963984540054
        return z * math.sqrt(accuracy * (1 - accuracy) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)

    n = points_for(accuracy, wanted)
    assert half(n) <= wanted
    assert n == 1 or half(n - 1) > wanted
    if 0 < accuracy < 1 and n > 100:  # at 0 and 1 the interval is cut off
        assert accuracy_interval(round(accuracy * n), n).half_width == pytest.approx(wanted, rel=0.05)
    with pytest.raises(ValueError, match="half_width"):
        points_for(accuracy, 0.5)


def test_the_evaluation_may_be_in_any_units_of_torch(trained):
    model, x, y = trained
    evaluation = evaluate(model, x[:10], y[:10].int(), norm="linf", eps="8/255", steps=2, keep_images=True)
    found = diagnose(model, x[:10], y[:10].int(), norm="linf", eps="8/255", evaluation=evaluation)
    assert not any(each.name == "failed checks" for each in found)
    assert torch.is_grad_enabled()
