"""Labels in another order than the outputs are named as that; a bad model is not accused of it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn.evaluation.diagnostics import CHECKS, diagnose
from easybn.evaluation.diagnostics.label_order import label_order

from ...small import small_images, small_net
from .test_behaviour import Around


def _warnings(model, x, y) -> dict[str, str]:
    checks = {name: CHECKS[name] for name in ("labels", "normalisation")}
    findings = diagnose(model, x, y, norm="linf", eps=8 / 255, checks=checks)
    assert "failed checks" not in {finding.name for finding in findings}
    return {finding.name: str(finding) for finding in findings if finding.severity == "warning"}


def _outputs_in_order(order):
    return lambda net, x: net(x)[:, order]


WRONG = {
    "one too small": [9, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    "one too large": [1, 2, 3, 4, 5, 6, 7, 8, 9, 0],
    "reversed": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    "classes 0 and 1, 8 and 9 are swapped": [1, 0, 2, 3, 4, 5, 6, 7, 9, 8],
    "another order": [4, 0, 7, 2, 9, 5, 1, 8, 3, 6],
}


@pytest.mark.parametrize("told", WRONG)
def test_labels_of_another_order_are_told_as_that_and_not_as_normalisation(trained, told):
    model, x, y = trained
    warnings = _warnings(Around(model, _outputs_in_order(WRONG[told])), x, y)
    assert set(warnings) == {"labels"}
    assert told in warnings["labels"]
    answers = model(x).argmax(1)
    assert f"{int((answers == y).sum())} of 200 points" in warnings["labels"]  # as it would be


def test_fifty_points_are_enough(trained):
    model, x, y = trained
    for told in ("one too small", "reversed", "another order"):
        assert set(_warnings(Around(model, _outputs_in_order(WRONG[told])), x[:50], y[:50])) == {"labels"}


def test_ten_folders_among_a_thousand_outputs(trained):
    model, x, y = trained
    place = torch.randperm(1000, generator=torch.Generator().manual_seed(3))[:10]

    def wide(net, x):
        return torch.full((len(x), 1000), -30.0).index_copy(1, place, net(x))

    warnings = _warnings(Around(model, wide), x, y)
    assert set(warnings) == {"labels"}
    assert "below chance" not in warnings["labels"]  # 0 of 200 is what chance gives
    moved = [f"label {label} is output {place[label]}" for label in range(10)]
    assert sum(pair in warnings["labels"] for pair in moved) == 6


def test_numbers_sorted_as_text():
    """200 points of 100 classes: two of each class, too few to fit an assignment."""
    labels = np.arange(200) % 100
    as_text = sorted(range(100), key=str)
    found = label_order(np.array([as_text.index(label) for label in labels]), labels, 100)
    assert found is not None
    assert "10 before 2" in found.name
    assert found.after == 200
    assert found.before == sum(as_text[label] == label for label in labels)
    assert (np.array(as_text)[found.output] == np.arange(100)).all()


def test_a_wrong_scaling_is_no_matter_of_labels(trained):
    model, x, y = trained
    assert set(_warnings(Around(model, lambda net, z: net(z / 255)), x, y)) == {"normalisation"}


def test_a_wrong_scaling_is_found_under_wrong_labels_too():
    """Five classes of brightness of images in 0 .. 255; in 0 .. 1 two of them look alike, and all are one off."""
    y = torch.arange(200) % 5
    x = ((y + 0.5) / 5)[:, None, None, None].expand(200, 1, 4, 4).clone()

    class Bands(nn.Module):
        def forward(self, z):
            level = z.mean((1, 2, 3))
            right_scale = level > 1
            level = torch.where(right_scale, level / 255, level)
            at = torch.where(~right_scale & (level > 0.8), level - 0.2, level) * 5 - 0.5
            return -((at[:, None] - torch.arange(5)) ** 2).roll(1, 1)

    warnings = _warnings(Bands(), x, y)
    assert "one too small" in warnings["labels"]
    assert (
        "160 of 200 points (80.0%) right as given, 200 of 200 points (100.0%) scaled to 0 .. 255"
        in (warnings["normalisation"])
    )


@pytest.mark.parametrize("classes", [10, 100])
def test_bad_models_are_not_accused(trained, classes):
    """Untrained, half trained, one class for all, and dice."""
    _, x, y = trained
    for seed in range(5):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1152, classes))
        optimiser = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
        for steps in (0, 1, 5):
            for _ in range(steps):
                optimiser.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimiser.step()
            for n in (50, 200):
                assert label_order(net(x[:n]).argmax(1).numpy(), y[:n].numpy(), classes) is None
    labels = y.numpy()
    assert label_order(np.full(200, 7), labels, classes) is None
    assert label_order(np.full(200, 7), np.where(labels > 2, 0, labels), classes) is None  # one label of most points
    assert label_order(np.random.default_rng(0).integers(0, classes, 200), labels, classes) is None


def test_confused_neighbours_are_no_swap():
    """Most of class 1 is called 2, and some of 2 is called 1: bad, but the labels are what they are."""
    labels = np.repeat(np.arange(10), 30)
    answers = labels.copy()
    answers[30:55] = 2
    answers[60:70] = 1
    assert label_order(answers, labels, 10) is None
    answers[60:90] = 1  # all of it: the two are swapped
    found = label_order(answers, labels, 10)
    assert found is not None
    assert found.name == "classes 1 and 2 are swapped"


def test_two_classes_take_clear_evidence():
    labels = np.arange(100) % 2
    barely = np.where(np.arange(100) % 5 == 0, labels, 1 - labels)  # 20% right: half of all untrained models err so
    assert label_order(barely, labels, 2) is None
    found = label_order(1 - labels, labels, 2)
    assert found is not None
    assert found.name == "classes 0 and 1 are swapped"


def test_many_thousand_outputs_take_no_room():
    labels = np.arange(60)
    assert label_order(labels, labels, 50_000) is None
    found = label_order(labels + 1, labels, 50_000)
    assert found is not None
    assert found.after == 60


def test_a_model_that_fits_is_told_so():
    net, x = small_net(), small_images(40)
    findings = diagnose(net, x, net(x).argmax(1), norm="l2", eps=0.5, checks={"labels": CHECKS["labels"]})
    assert [finding.severity for finding in findings] == ["ok"]
    assert "40 of 40 points (100.0%) right" in findings[0].how_much
