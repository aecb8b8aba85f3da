"""The strong protocol beside APGD-CE of the reference AutoAttack, on the same points of a trained model."""

import pytest
import torch

from easybn.evaluation import evaluate

autopgd = pytest.importorskip("pyautoattack.autopgd_base")


@pytest.mark.parametrize(("norm", "reference_norm", "eps"), [("l2", "L2", 0.4), ("linf", "Linf", 0.03)])
def test_strong_pgd_agrees_with_apgd(trained, norm, reference_norm, eps):
    model, x, y = trained
    found = evaluate(model, x, y, norm=norm, eps=eps, steps=30)
    assert found.clean_accuracy > 0.75
    apgd = autopgd.APGDAttack(model, n_iter=30, norm=reference_norm, eps=eps, seed=0, loss="ce", device="cpu")
    alive = found.clean.nonzero()[:, 0]
    theirs = found.clean.clone()
    result = apgd.perturb(x[alive], y[alive])
    images = result[1] if isinstance(result, tuple) else result
    with torch.no_grad():
        theirs[alive] = model(images).argmax(1) == y[alive]
    ours, reference = int(found.robust.sum()), int(theirs.sum())
    assert 20 < reference < int(found.clean.sum()) - 20, "a radius at which there is something to compare"
    assert abs(ours - reference) <= 4
    assert int((found.robust != theirs).sum()) <= 8


def test_the_two_protocols_agree_on_an_ordinary_model(trained):
    model, x, y = trained
    strong = evaluate(model, x[:100], y[:100], eps=0.4, steps=30)
    faithful = evaluate(model, x[:100], y[:100], eps=0.4, steps=30, protocol="robustness")
    assert strong.robust_accuracy <= faithful.robust_accuracy <= strong.robust_accuracy + 0.05
