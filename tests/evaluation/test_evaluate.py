from fractions import Fraction

import pytest
import torch
from torch import nn

from easybn.evaluation import accuracy_interval, evaluate

from ..small import small_images, small_net


@pytest.fixture(scope="module")
def problem():
    model, x = small_net(), small_images(40)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 4
    return model, x, y


def test_the_result_fits_together(problem):
    model, x, y = problem
    found = evaluate(model, x, y, eps=[0.5, 0.2], steps=8)
    assert found.clean_accuracy == 36 / 40
    assert torch.equal(found.clean, torch.arange(40) >= 4)
    assert found.robust is found.robust_at[0.5]
    assert found.robust_accuracy == found.scores[-1].accuracy == int(found.robust.sum()) / 40
    assert found.interval == accuracy_interval(int(found.robust.sum()), 40)
    assert [(s.attack, s.eps, s.n) for s in found.scores] == [("clean", None, 40), ("pgd", 0.2, 40), ("pgd", 0.5, 40)]
    assert [s.correct for s in found.scores[1:]] == [int(found.robust_at[e].sum()) for e in (0.2, 0.5)]
    assert not (found.robust & ~found.clean).any()
    with pytest.raises(ValueError, match="no images were kept"):
        found.images  # noqa: B018


@pytest.mark.parametrize("eps", [8 / 255, "8/255", Fraction(8, 255), ["8/255"], [8 / 255, "8/255"]])
def test_eps_in_any_spelling(problem, eps):
    assert list(evaluate(*problem, norm="linf", eps=eps, steps=1).robust_at) == [8 / 255]


def test_clean_alone(problem):
    found = evaluate(*problem, attacks="clean")
    assert [score.attack for score in found.scores] == ["clean"]
    assert found.interval == accuracy_interval(36, 40)
    with pytest.raises(ValueError, match="no attack was run"):
        found.robust  # noqa: B018


def test_labels_of_any_integer_type(problem):
    model, x, y = problem
    assert torch.equal(evaluate(model, x, y.to(torch.uint8), steps=3).robust, evaluate(model, x, y, steps=3).robust)


def test_vectors_are_images_too():
    model, x = nn.Linear(5, 3).eval(), torch.rand(20, 5)
    y = model(x).argmax(1)
    found = evaluate(model, x, y, eps=5.0, steps=5, keep_images=True)
    assert torch.equal(model(found.images).argmax(1) == y, found.robust)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.5}, "eps must be a positive number"),
        ({"eps": 0}, "eps must be a positive number"),
        ({"eps": float("nan")}, "eps must be a positive number"),
        ({"eps": [0.5, float("inf")]}, "eps must be a positive number"),
        ({"eps": 8, "norm": "linf"}, "is it in units of /255"),
        ({"eps": "eight"}, "a fraction such as '8/255', got 'eight'"),
        ({"eps": "8/0"}, "a fraction such as '8/255', got '8/0'"),
        ({"eps": None}, "eps must be a number"),
        ({"eps": []}, "one radius or more"),
        ({"norm": "l1"}, "unknown norm 'l1'; known: l2, linf"),
        ({"attacks": "fgsm"}, "unknown attack 'fgsm'; known: clean, pgd"),
        ({"attacks": ["pgd", "fgsm"]}, "unknown attack 'fgsm'"),
        ({"protocol": "weak"}, "unknown protocol 'weak'; known: strong, robustness"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": -1.0}, "step_size must be a positive number"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"protocol": "robustness", "random_start": True}, "no random start"),
    ],
)
def test_one_line_errors(problem, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(*problem, **options)
    assert "\n" not in str(caught.value)


def test_images_and_labels_that_make_no_sense(problem):
    model, x, y = problem
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
        evaluate(model, x * 255, y)
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
        evaluate(model, x.index_fill(0, torch.tensor([3]), torch.nan), y)
    with pytest.raises(TypeError, match="floating point"):
        evaluate(model, (x * 255).byte(), y)
    with pytest.raises(ValueError, match=r"labels must be in 0 \.\. 3"):
        evaluate(model, x, y + 1)
    with pytest.raises(ValueError, match="labels must be integers of shape"):
        evaluate(model, x, y[:-1])
    with pytest.raises(ValueError, match="at least one"):
        evaluate(model, x[:0], y[:0])
