"""Images made against another branch, where the evaluated one hides its gradients."""

import numpy as np
import pytest
import torch
from torch import nn

from easybn import convert, route
from easybn.evaluation import Evaluation, evaluate
from easybn.evaluation.diagnostics import diagnose
from easybn.evaluation.diagnostics.cross_checks import transfer


def _findings(model, x, y, eps=8 / 255, **how):
    return diagnose(model, x, y, norm="linf", eps=eps, checks={"transfer": transfer}, **how)


class Steps(nn.Module):
    """A norm whose output moves in small steps: the same function to the eye, without a slope."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return (self.norm(x) * 64).round() / 64


@pytest.fixture
def branched(trained):
    model, x, y = trained
    return convert(model, ("main", "easy")), x[:40], y[:40]


def test_plain_models_have_no_branch_to_transfer_from(trained):
    assert _findings(*trained) == []
    model, x, y = trained
    assert _findings(convert(model, ("main",)), x, y) == []


def test_branches_that_are_equal_transfer_as_well_as_their_own(branched):
    (found,) = _findings(*branched)
    assert found.fine
    assert "on 'main'" in found.how_much


@pytest.mark.parametrize("scored", ["main", "easy"])
def test_a_branch_that_hides_its_gradients(branched, scored):
    model, x, y = branched
    for module in model.modules():
        if isinstance(module, nn.ModuleDict):
            module[scored] = Steps(module[scored])
    with route(model, scored):
        (found,) = _findings(model, x, y)
    assert found.severity == "warning"
    other = "easy" if scored == "main" else "main"
    assert f"branch {other!r} break {scored!r}" in found.what
    with route(model, other):
        assert _findings(model, x, y)[0].fine


def test_verdicts_that_another_branch_refutes(branched):
    model, x, y = branched
    honest = evaluate(model, x, y, norm="linf", eps=8 / 255, steps=10)
    assert _findings(model, x, y, evaluation=honest)[0].fine
    flattering = Evaluation(honest.clean, {8 / 255: honest.clean}, honest.scores)
    (found,) = _findings(model, x, y, evaluation=flattering)
    assert found.severity == "warning"
    assert "that the evaluation calls robust" in found.how_much


def test_every_other_branch_is_tried(trained):
    model, x, y = trained
    three = convert(model, ("main", "easy", "hard"))
    assert len(_findings(three, x[:10], y[:10])) == 2
    assert np.unique([module.active for module in three.modules() if hasattr(module, "active")]) == ["main"]
    assert torch.equal(three(x), model(x))
