"""Inputs in other units than the model's or the attack's, and the protocol that depends on its batches."""

from dataclasses import replace
from fractions import Fraction
from math import comb

import pytest
import torch
from torch import nn

from easybn.evaluation import evaluate
from easybn.evaluation.diagnostics import diagnose
from easybn.evaluation.diagnostics.cross_checks import batch_sizes
from easybn.evaluation.diagnostics.inputs import normalisation, perturbation, units
from easybn.models import Normalise
from easybn.stats import mcnemar

from ..test_pgd_robustness import Confident
from .test_behaviour import Around


def _finding(check, model, x, y, norm="linf", eps: float = 8 / 255, **how):
    found = diagnose(model, x, y, norm=norm, eps=eps, checks={"check": check}, **how)
    assert len(found) == 1
    return found[0]


def _statistics(x) -> tuple[list[float], list[float]]:
    return [float(x.mean())], [float(x.std())]


def test_a_model_that_is_shown_what_it_knows(trained):
    assert _finding(normalisation, *trained).fine


def test_a_missing_normalisation(trained):
    model, x, y = trained
    (mean,), (std,) = _statistics(x)
    expects_normalised = Around(model, lambda net, z: net((z * std + mean).clamp(-1, 2)))
    found = _finding(normalisation, expects_normalised, x, y)
    assert found.severity == "warning"
    assert "normalised by their mean" in found.what
    assert f"means {mean:.3f}" in found.how_much


def test_a_normalisation_too_many(trained):
    model, x, y = trained
    first, second = model(x).topk(2, dim=1).values.unbind(1)
    clear = first - second > 1e-3  # what is undone is undone but for rounding
    x, y, n = x[clear], y[clear], int(clear.sum())
    assert n > 190
    found = _finding(normalisation, nn.Sequential(Normalise(*_statistics(x)), model), x, y)
    assert found.severity == "warning"
    assert "undone" in found.what
    right = int((model(x).argmax(1) == y).sum())
    assert f"{right} of {n} points ({right / n:.1%}) with a normalisation undone" in found.how_much


def test_a_few_points_prove_nothing(trained):
    model, x, y = trained
    twice = nn.Sequential(Normalise(*_statistics(x)), model)
    gained = ((model(x).argmax(1) == y) & (twice(x).argmax(1) != y)).nonzero()[:, 0]
    # all of them better: 11 are the fewest whose p = 2 / 2^n is below 0.001
    for n, severity in ((10, "ok"), (11, "warning")):
        assert _finding(normalisation, twice, x[gained[:n]], y[gained[:n]]).severity == severity


def test_bytes_and_images_divided_twice(trained):
    model, x, y = trained
    found = _finding(normalisation, Around(model, lambda net, z: net(z / 255)), x, y)
    assert found.severity == "warning"
    assert "0 .. 255" in found.what
    dark = _finding(normalisation, model, x / 255, y)
    assert dark.severity == "warning"
    assert "nearly black" in dark.what


def test_vectors_have_no_channels():
    x = torch.rand(50, 5)
    model = nn.Linear(5, 3)
    assert _finding(normalisation, model, x, model(x).argmax(1)).fine


@pytest.mark.parametrize("counts", [(0, 0), (0, 9), (0, 11), (3, 20), (20, 3), (150, 160), (500, 400)])
def test_mcnemar_is_the_binomial_test(counts):
    """Two-sided: all outcomes of a fair coin that are no more likely than the one seen."""
    n = sum(counts)
    seen = comb(n, counts[0])
    expected = Fraction(sum(comb(n, k) for k in range(n + 1) if comb(n, k) <= seen), 2**n)
    assert mcnemar(*counts) == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


@pytest.mark.parametrize(
    ("norm", "eps", "told"),
    [
        ("linf", 8 / 255, "ok"),
        ("linf", 8 / 255 / 255, "8 bits"),
        ("linf", 0.5, "large as the images"),
        ("l2", 0.5, "ok"),
        ("l2", 13.9, "ok"),  # 0.5 * sqrt(784) = 14
        ("l2", 128, "large as the images"),
    ],
)
def test_units_of_eps(trained, norm, eps, told):
    found = _finding(units, *trained, norm, eps)  # type: ignore[call-arg]
    assert (found.severity, "") == ("ok", "") if told == "ok" else found.severity == "warning" and told in found.what


def test_verdicts_that_depend_on_the_batch():
    class Certain(Confident):
        def forward(self, x):
            return super().forward(x) + torch.tensor([4.0, 0.0])

    x, y = torch.full((20, 1, 8, 8), 0.5), torch.zeros(20, dtype=torch.int64)
    found = _finding(batch_sizes, Certain(), x, y, "l2", 0.6)
    assert found.severity == "warning"
    assert "16 of 16 points, 0 robust one by one and 16 in batches of 128" in found.how_much
    assert diagnose(Certain(), x, y, norm="linf", eps=0.1, checks={"check": batch_sizes}) == []
    assert diagnose(Certain(), x, y, norm="l2", eps=0.6, batch_size=1, checks={"check": batch_sizes}) == []


def test_batch_sizes_are_looked_at_for_the_protocol_that_depends_on_them(trained):
    model, x, y = trained
    how = {"norm": "l2", "eps": 0.3, "steps": 2}
    for protocol in ("robustness", "strong"):
        found = evaluate(model, x[:8], y[:8], protocol=protocol, **how).findings
        assert ("batch sizes" in {finding.name for finding in found}) == (protocol == "robustness")


def test_the_rounding_of_pixels_is_not_outside_the_ball(trained):
    """At linf 4/255 a float32 pixel is up to 3e-8 off, two millionths of eps; 1% is not rounding."""
    model, x, y = trained
    found = evaluate(model, x[:20], y[:20], norm="linf", eps=4 / 255, protocol="robustness", steps=3)
    assert found.scores[1].max_perturbation > 4 / 255 * (1 + 1e-6)
    assert [finding.severity for finding in found.findings if finding.name == "perturbation"] == ["ok"]
    farther = replace(found, scores=[found.scores[0], replace(found.scores[1], max_perturbation=4.04 / 255)])
    told = _finding(perturbation, model, x[:20], y[:20], "linf", 4 / 255, evaluation=farther)
    assert told.severity == "warning"
    assert "outside the ball" in told.what
