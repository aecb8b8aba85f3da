"""Square breaks what gradient attacks did not: a model for each of the two causes."""

import torch
from torch import nn

from easybn import evaluate
from easybn.attacks.square import Square
from easybn.evaluation.diagnostics import diagnose
from easybn.evaluation.diagnostics.square import square
from easybn.perturb.ball import Linf

EPS = 0.1


class Basins(nn.Module):
    """The margin of class 1 as a function of s in [-1, 1], the mean of the perturbation of grey images in units of eps.

    From s = 0 it rises to -2.5 at s = -1; a better basin begins at s = 0.13 and rises to 1.5 at s = 1. So gradients
    from the middle lead away from it, and a window that is bright in most channels lies in it, at a margin below 0.
    """

    def forward(self, x):
        s = (x.flatten(1).mean(1) - 0.5) / EPS
        margin = torch.maximum(-2.5 - 0.3 * (s + 1), 5 * (s - 0.7))
        return torch.stack((-margin, margin), 1) / 2


class Rounded(nn.Module):
    """A linear model of images in few grey levels: it has no gradient but zero."""

    def forward(self, x):
        margin = (10 * x).add(0.45).floor().flatten(1).mean(1) - 5.5
        return torch.stack((-margin, margin), 1) / 2


def found_of(model):
    x, y = torch.full((6, 6, 12, 12), 0.5), torch.zeros(6, dtype=torch.int64)
    attacks = ["apgd-ce", Square(Linf(EPS), queries=300)]
    evaluation = evaluate(model, x, y, norm="linf", eps=EPS, attacks=attacks, diagnosis=False)
    assert evaluation.scores[-1].broke["apgd-ce"] == 0
    assert evaluation.scores[-1].broke["square"] >= 4
    (finding,) = diagnose(model, x, y, norm="linf", eps=EPS, evaluation=evaluation, checks={"square": square})
    return finding


def test_gradients_that_lead_there_from_windows_had_weak_starts():
    finding = found_of(Basins())
    assert (finding.name, finding.severity) == ("weak starts", "warning")
    assert "from better starts gradients lead there" in finding.why
    assert "attacks='fast'" in finding.remedy


def test_gradients_that_lead_nowhere_from_windows_either_are_masked():
    """Windows are adversarial themselves now and then: that is no merit of gradients."""
    finding = found_of(Rounded())
    assert (finding.name, finding.severity) == ("square", "warning")
    assert "from better starts it does not either: gradients are masked" in finding.why
    assert "PGD from windows breaks 0 of " in finding.how_much
