"""Logits that are not numbers, and logits that are masks."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easybn.attacks import registry
from easybn.evaluation import evaluate as evaluate_and_diagnose

from ..small import small_images, small_net

evaluate = partial(evaluate_and_diagnose, diagnosis=False)

NAN, INF = torch.nan, torch.inf


class Model(nn.Module):
    def __init__(self, run, inner=None):
        super().__init__()
        self.inner, self.run = inner or small_net(), run
        self.eval()

    def forward(self, x):
        return self.run(x, self.inner(x))


def moved(x):
    """bool (n, 1): not on the grid of eight bits, as every perturbed image is."""
    return ((x * 255 - (x * 255).round()).abs().amax((1, 2, 3)) > 1e-2)[:, None]


def own(z):
    return F.one_hot(z.argmax(1), z.shape[1]).bool()


BREAKDOWNS = {
    "all": lambda x, z: torch.where(moved(x), NAN, z),
    "the true class": lambda x, z: torch.where(moved(x) & own(z), NAN, z),
    "another class": lambda x, z: torch.where(moved(x) & own(z).roll(1, 1), NAN, z),
    "overflow": lambda x, z: torch.where(moved(x) & own(z), INF, z),
    "float16": lambda x, z: torch.where(moved(x), z.sign().half() * 60000 * 2, z.half()),
    "all masked": lambda x, z: torch.where(moved(x), -INF, z),
}
X = (small_images(6) * 255).round() / 255
Y = small_net()(X).argmax(1)


@pytest.mark.parametrize("kind", BREAKDOWNS)
@pytest.mark.parametrize(
    "how",
    [
        {"attacks": "square"},
        {"attacks": "rand"},
        {"attacks": "apgd-t"},
        {"attacks": "fab-t"},
        {"steps": 3},
        {"steps": 3, "protocol": "robustness"},
    ],
    ids=str,
)
def test_a_model_that_breaks_down_on_an_attacked_image_is_not_robust_there(kind, how):
    found = evaluate(Model(BREAKDOWNS[kind]), X, Y, norm="linf", eps=1.5 / 255, keep_images=True, **how)
    assert found.clean.all()
    assert not found.robust.any()
    assert "6 points count as misclassified: the logits of an attacked image are NaN or infinite" in found.notes
    assert moved(found.images).all()


def test_the_note_is_there_when_a_store_is_read_again(tmp_path):
    model, how = Model(BREAKDOWNS["all"]), {"norm": "linf", "eps": 1.5 / 255, "attacks": "apgd-ce"}
    first, again = (evaluate(model, X, Y, store=tmp_path / "store", **how) for _ in range(2))
    assert not first.robust.any()
    assert torch.equal(first.robust, again.robust)
    assert first.notes == again.notes
    assert any("6 points count as misclassified" in note for note in again.notes)


@pytest.mark.parametrize("value", [NAN, INF])
def test_clean_images_without_an_answer_are_an_error(value):
    broken = torch.arange(6)[:, None] < 2
    with pytest.raises(ValueError, match="logits are NaN or infinite for 2 of 6 images, such as that of point 0"):
        evaluate(Model(lambda x, z: torch.where(broken[: len(x)], value, z)), X, Y, attacks="clean")


MASKS = {
    "-inf added": lambda mask: lambda x, z: z + torch.where(mask, -INF, 0.0),
    "-inf put": lambda mask: lambda x, z: z.masked_fill(mask, -INF),
    "-1e9 added": lambda mask: lambda x, z: z + torch.where(mask, -1e9, 0.0),
    "least put": lambda mask: lambda x, z: z.masked_fill(mask, torch.finfo(z.dtype).min),
}


@pytest.fixture(params=[10, pytest.param(100, marks=pytest.mark.slow)])
def iterations(request, monkeypatch):
    """Of the attacks named below, 100 being their own: points fall or do not within the first few."""
    for name in ("apgd-t", "apgd-dlr", "fab", "fab-t"):
        make = partial(lambda of, ball: replace(of(ball), iterations=request.param), registry.ATTACKS[name])
        monkeypatch.setitem(registry.ATTACKS, name, make)
    return request.param


HOW = {
    "apgd-t": {"attacks": "apgd-t"},
    "apgd-dlr": {"attacks": "apgd-dlr"},
    "fab": {"attacks": "fab"},
    "fab-t": {"attacks": "fab-t"},
    "pgd": {"steps": 5},
    "pgd, robustness": {"steps": 5, "protocol": "robustness"},
}


def sliced_model(classes):
    """The model of 8 classes without the last ones."""
    return Model(lambda x, z: z[:, :classes], small_net(classes=8))


@cache
def of_the_sliced_model(classes, how, eps, iterations):
    model, x = sliced_model(classes), small_images(12)
    return evaluate(model, x, model(x).argmax(1), norm="linf", eps=eps, **HOW[how])


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("how", HOW)
def test_a_masked_model_is_attacked_as_the_one_without_these_classes(kind, classes, how, iterations):
    x, masked = small_images(12), Model(MASKS[kind](torch.arange(8) >= classes), small_net(classes=8))
    y = sliced_model(classes)(x).argmax(1)
    # far below and far above the radius at which points fall
    for eps in (1e-4, 0.3):
        expected = of_the_sliced_model(classes, how, eps, iterations)
        found = evaluate(masked, x, y, norm="linf", eps=eps, **HOW[how])
        assert found.clean.all()
        assert torch.equal(found.robust, expected.robust)
        assert found.robust.all() == (eps < 0.01)
        if len(found.record) and "pgd" not in found.record.attack[-1]:
            assert found.record.target.max(initial=0) == expected.record.target.max(initial=0)
        assert f"{8 - classes} of 8 logits are masked: attacks leave these classes out" in found.notes
        assert not any("not finite" in note or "given up" in note or "two passes" in note for note in found.notes)


def test_a_label_that_is_masked_is_misclassified():
    model, x = Model(lambda x, z: z.masked_fill(torch.tensor([False, False, False, True]), -INF)), small_images(4)
    found = evaluate(model, x, torch.full((4,), 3), norm="linf", eps=0.01, attacks="apgd-ce")
    assert not found.clean.any()
    assert not found.robust.any()
