"""Verdicts at two batch sizes on a trained model, and the list of the points on which two evaluations differ."""

from dataclasses import replace

import pytest
import torch

from easybn.evaluation import evaluate
from easybn.evaluation.verify import agreement

HOW = {"norm": "linf", "keep_images": True, "diagnosis": False}


def at_two_sizes(trained, **how):
    return [evaluate(*trained, **HOW, **how, batch_size=size) for size in (256, 23)]


def hold(trained, found, least):
    """The share of equal verdicts, and every image of a differing point fools the model."""
    model, x, y = trained
    both = agreement(model, y, *found)
    assert len(x) == 200
    assert both.share >= least
    equal = torch.stack([found[0].robust_at[eps] == found[1].robust_at[eps] for eps in found[0].robust_at])
    assert both.share == pytest.approx(float(equal.double().mean()))
    assert len(both.differing) == int((~equal).sum())
    assert all(each.holds for each in both.differing)
    for each in found:  # there is something to disagree on
        assert all(0.04 < float(robust.double().mean()) < 0.9 for robust in each.robust_at.values())


def test_another_batch_size_gives_the_same_verdicts(trained):
    hold(trained, at_two_sizes(trained, eps=0.04, attacks=["apgd-ce"]), least=0.995)


@pytest.mark.slow
def test_another_batch_size_gives_the_same_verdicts_of_the_whole_standard(trained):
    hold(trained, at_two_sizes(trained, eps=0.1, attacks="standard"), least=0.995)


def test_differing_points_are_scored_again_and_listed(trained):
    model, x, y = trained
    ids = torch.arange(200) * 3 + 1
    how = {**HOW, "eps": [0.02, 0.04], "ids": ids}
    weak = evaluate(*trained, **how, steps=1, step_size=0.02)
    strong = evaluate(*trained, **how, steps=10)
    found = agreement(model, y, weak, strong)
    expected = [
        (int(ids[row]), eps) for eps in (0.02, 0.04) for row in range(200)
        if bool(weak.robust_at[eps][row]) != bool(strong.robust_at[eps][row])
    ]  # fmt: skip
    assert [(each.point, each.eps) for each in found.differing] == expected
    assert len(expected) > 5
    for each in found.differing:
        row = ids.tolist().index(each.point)
        logits = model(((weak, strong)[each.broken_in].images_at[each.eps])[row : row + 1])[0].detach().double()
        others = logits.clone()
        others[y[row]] = -torch.inf
        assert each.margin == pytest.approx(float(others.max() - logits[y[row]]), abs=1e-5)
        assert each.holds
    assert "broken in the second evaluation only; its image is misclassified" in str(found.differing[-1])
    # an image that is none: the other evaluation was right
    untrue = replace(strong, images_at=dict.fromkeys(strong.images_at, x))
    assert not any(each.holds for each in agreement(model, y, weak, untrue).differing if each.broken_in == 1)


def test_what_cannot_be_compared(trained):
    model, x, y = trained
    some = evaluate(model, x[:9], y[:9], **HOW, eps=0.02, steps=1)
    with pytest.raises(ValueError, match="other points"):
        agreement(model, y[:9], some, evaluate(model, x[:9], y[:9], **HOW, eps=0.02, steps=1, ids=range(1, 10)))
    with pytest.raises(ValueError, match="no radius in common"):
        agreement(model, y[:9], some, evaluate(model, x[:9], y[:9], **HOW, eps=0.03, steps=1))
    with pytest.raises(ValueError, match="no images were kept"):
        agreement(model, y[:9], some, evaluate(model, x[:9], y[:9], norm="linf", eps=0.02, steps=1))
