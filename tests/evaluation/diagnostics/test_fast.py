"""What the diagnosis says of fast: its audit, and gradients that it cannot rely on."""

import pytest
import torch

from easybn.evaluation import Score, evaluate
from easybn.evaluation.audit import Audit
from easybn.evaluation.diagnostics import Finding
from easybn.evaluation.diagnostics.fast import about_fast
from easybn.evaluation.result import Evaluation

from ...small import small_images, small_net
from ..weak_fast import patched

NONE = {"apgd-ce": 0, "apgd-t": 0, "fab-t": 0, "square": 0}


def evaluation(audit, attack="fast"):
    every = torch.ones(1000, dtype=torch.bool)
    score = Score(attack, 1000, 1, None, "linf", 8 / 255, audit=audit)
    return Evaluation(every, {8 / 255: every}, [Score("clean", 1000, 1000), score])


def said(audit, *findings):
    return [(each.name, each.severity) for each in about_fast(evaluation(audit), findings)]


def test_an_audit_that_broke_points_is_told():
    assert said(Audit(700, 0, 40, 0, 0, NONE)) == [("audit", "ok")]
    assert said(Audit(700, 0, 40, 0, 1, {**NONE, "apgd-t": 1})) == [("audit", "note")]
    assert said(Audit(700, 3, 40, 3, 0, {**NONE, "apgd-t": 3})) == [("audit", "note")]  # few of 1,000
    (found,) = about_fast(evaluation(Audit(700, 0, 40, 0, 2, {**NONE, "fab-t": 2})), [])
    assert (found.name, found.severity) == ("audit", "warning")
    assert "2 of 40 points (5.0%) audited at linf 8/255, about 35 of the 1,000 attacked in all" in found.how_much
    assert said(None) == []
    assert about_fast(evaluation(None, "pgd"), [Finding("square", "warning", "x", "")]) == []


@pytest.mark.parametrize("name", ["zero gradients", "zero gradients of attacks", "square"])
def test_masked_models_are_told_to_use_standard(name):
    (found,) = about_fast(evaluation(None), [Finding(name, "warning", "what", "much")])
    assert (found.name, found.severity) == ("fast", "warning")
    assert found.how_much == f"see {name}"
    assert "attacks='standard' (--attacks autoattack)" in found.remedy
    assert said(None, Finding(name, "note", "what", "much")) == []
    assert said(None, Finding("saturation", "warning", "what", "much")) == []


def test_square_that_breaks_what_fast_left_is_a_sign_of_masking():
    audit = Audit(700, 0, 40, 0, 2, {**NONE, "square": 2})
    assert said(audit) == [("fast", "warning"), ("audit", "warning")]


class Rounding(torch.nn.Module):
    """A small network that sees its images in eight steps."""

    def __init__(self):
        super().__init__()
        self.net = small_net()

    def forward(self, x):
        return self.net((x * 8).round() / 8)


def test_a_masked_model_from_beginning_to_end(monkeypatch, tmp_path):
    patched(monkeypatch)
    model, x = Rounding().eval(), small_images(20)
    how = {"norm": "linf", "eps": 0.1, "attacks": "fast", "audit": 3, "store": tmp_path / "s"}
    found = evaluate(model, x, model(x).argmax(1), **how)
    assert [each.severity for each in found.findings if each.name == "fast"] == ["warning"]
    assert any("Use attacks='standard'" in note for note in found.notes)
    assert found.audits[0.1].suspicious == found.audits[0.1].survivors  # no gradient led anywhere
    more = evaluate(model, x, model(x).argmax(1), **how)
    assert more.findings == found.findings
