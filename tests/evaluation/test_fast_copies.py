"""``compile`` and ``precision`` of ``evaluate``: other steps, and verdicts of the model itself all the same."""

import pytest
import torch
from torch import nn

from easybn.evaluation import evaluate
from easybn.evaluation.store import Store

from ..small import small_images, small_net

HOW = {"norm": "linf", "eps": 0.02, "keep_images": True, "attacks": ["apgd-ce", "fab", "fab-t"]}


@pytest.fixture(scope="module")
def problem():
    model, x = small_net(), small_images(24)
    return model, x, model(x).argmax(1)


@pytest.fixture(scope="module")
def plain(problem):
    return evaluate(*problem, **HOW)


def agree(problem, found, plain):
    """Verified by the model in float32, and near to what steps in float32 find."""
    model, x, y = problem
    assert torch.equal(model(found.images).argmax(1) == y, found.robust)
    assert 0 < int(found.robust.sum()) < len(x)
    assert (found.images - x).abs().max() <= 0.02 + 1e-6
    assert int((found.robust != plain.robust).sum()) <= 1


def test_bf16(problem, plain, tmp_path):
    found = evaluate(*problem, **HOW, precision="bf16", store=tmp_path / "s")
    agree(problem, found, plain)
    assert found.remarks == plain.remarks
    assert found.record.margin.tolist() != plain.record.margin.tolist()  # it did take other steps
    assert Store.existing(tmp_path / "s").manifest.preparation.endswith("bf16")
    with pytest.raises(ValueError, match=r"preparation: .*bf16' here, .*channels last' asked"):
        evaluate(*problem, **HOW, store=tmp_path / "s")


def test_square_sees_no_bf16(problem):
    """Nothing of an attack without gradients changes."""
    how = {"norm": "linf", "eps": 0.02, "attacks": "square"}
    short = (problem[0], problem[1][:2], problem[2][:2])
    plain, found = evaluate(*short, **how), evaluate(*short, **how, precision="bf16")
    assert plain.record.margin == pytest.approx(found.record.margin, nan_ok=True)
    assert plain.record.iteration.tolist() == found.record.iteration.tolist()


class Narrow(nn.Module):
    """Right in float32, and in bf16 another function: its logits are small differences of large numbers."""

    def __init__(self):
        super().__init__()
        self.net = small_net()

    def forward(self, x):
        first, second = self.net[:4](x), self.net[4]
        return second(first + 1000) - second(first * 0 + 1000)


def test_what_fails_the_check_is_given_up_and_told(problem):
    _, x, _ = problem
    model = Narrow().eval()
    found = evaluate(model, x, model(x).argmax(1), norm="linf", eps=0.02, steps=3, precision="bf16")
    assert any(note.startswith("bf16 was given up after a check on 16 images") for note in found.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'; known: float32, bf16"),
        ({"protocol": "robustness", "compile": True}, "attacks the model as it is"),
        ({"protocol": "robustness", "precision": "bf16"}, "attacks the model as it is"),
    ],
)
def test_one_line_errors(problem, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*problem, **options)


def test_bf16_of_a_float64_model_is_refused(problem):
    _, x, y = problem
    with pytest.raises(ValueError, match="convert the model to float32"):
        evaluate(small_net().double(), x.double(), y, precision="bf16", steps=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled(problem, plain, tmp_path):
    """FAB without a target backpropagates a graph once a class."""
    found = evaluate(*problem, **HOW, compile=True, store=tmp_path / "s")
    agree(problem, found, plain)
    assert found.remarks == plain.remarks
    assert Store.existing(tmp_path / "s").manifest.preparation.endswith("compiled")
    both = evaluate(*problem, **HOW, compile=True, precision="bf16")
    agree(problem, both, plain)
    assert both.remarks == plain.remarks
