import gc
import re
from fractions import Fraction

import pytest
import torch
from torch import nn

from easybn.evaluation import accuracy_interval, evaluate
from easybn.evaluation.result import Score, headline

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
    found = evaluate(model, x, y, eps=2.0, steps=5, keep_images=True)
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
    with pytest.raises(ValueError, match=r"got .* \.\. 1\.00000095: .*clamp what only rounding moved out"):
        evaluate(model, torch.cat([x[1:], x[:1] * 0 + 1.000001]), y)
    with pytest.raises(TypeError, match="images must be a torch tensor, got ndarray"):
        evaluate(model, x.numpy(), y)
    with pytest.raises(TypeError, match="labels must be a torch tensor, got list"):
        evaluate(model, x, y.tolist())
    with pytest.raises(TypeError, match=r"the model must be a torch\.nn\.Module, got function: wrap it in one"):
        evaluate(lambda images: model(images), x, y)


class Held(nn.Module):
    """Its first layer holds pixels at 0 and 1 (the derivative of hardtanh is 0 there)."""

    def __init__(self, model):
        super().__init__()
        self.net = nn.Sequential(nn.Hardtanh(0, 1), model)

    def forward(self, x):
        return self.net(x)


@pytest.fixture(scope="module")
def held():
    """Eight images of zeros and ones."""
    x = (small_images(8) > 0.5).float()
    model = Held(small_net()).eval()
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("attacks", ["pgd", "apgd-ce"])
@pytest.mark.parametrize("protocol", ["strong", "robustness"])
def test_what_the_diagnosis_warns_of_is_in_the_result(held, attacks, protocol):
    found = evaluate(*held, norm="linf", eps=0.02, steps=3, attacks=attacks, protocol=protocol)
    warnings = [finding for finding in found.findings if finding.severity == "warning"]
    assert "clamped pixels" in {finding.name for finding in warnings}
    assert {"randomised", "dynamic"} <= {finding.name for finding in found.findings if finding.fine}
    told = [note for note in found.notes if note.startswith("warning: ")]
    assert told == [f"warning: {finding.line}" for finding in warnings]
    assert found.notes == [*found.remarks, *told]
    assert all(str(finding) in str(found).splitlines() for finding in warnings)


def test_without_a_diagnosis_there_are_no_findings(held):
    for how in ({"diagnosis": False, "steps": 2}, {"attacks": "clean"}):
        found = evaluate(*held, **how)
        assert found.findings == ()
        assert found.notes == []


def test_a_note_on_how_the_model_was_found_stays_one_note():
    found = evaluate(nn.Sequential(nn.Dropout(0.5), small_net()).train(), small_images(8), torch.arange(8) % 4, steps=2)
    assert sum("train mode" in note for note in found.notes) == 1
    assert found.remarks == []  # the finding says it, and what it means
    (line,) = [line for line in str(found).splitlines() if "the model came in train mode" in line.lower()]
    assert "Call model.eval() before an evaluation of your own" in line


def test_a_result_reads_as_what_it_says(problem):
    model, x, y = problem
    lines = str(evaluate(model, x, y, norm="linf", eps="8/255", steps=3)).splitlines()
    assert re.fullmatch(r"robust accuracy at linf 8/255: \d+\.\d% \(95%: .* to .*\), 40 points, PGD strong", lines[0])
    assert lines[1] == "clean accuracy: 90.0% (95%: 76.9 to 96.0), 40 points"  # Wilson's interval of 36 of 40
    assert sum(line.startswith(("note ", "warning ")) for line in lines) == len(lines) - 2
    assert repr(evaluate(model, x, y, attacks="clean")).splitlines() == lines[1:2]


def test_a_result_in_one_line():
    assert headline(Score("clean", 1, 1)) == "clean accuracy: 100.0% (95%: 20.7 to 100.0), 1 point"
    score = Score("autoattack", 200, 119, "standard", "linf", 8 / 255)
    line = "robust accuracy at linf 8/255: 59.5% (95%: 52.6 to 66.1)"
    assert headline(score, 10_000) == f"{line}, 200 of 10,000 points, AutoAttack standard"
    assert headline(score, 200) == headline(score) == f"{line}, 200 points, AutoAttack standard"
    own = Score("apgd-ce+mine+square", 200, 119, None, "l2", 0.5)
    assert headline(own).endswith("at l2 0.5: 59.5% (95%: 52.6 to 66.1), 200 points, apgd-ce, mine and square")


def test_no_tensor_of_an_evaluation_stays(trained, tmp_path):
    """With everything on, so that a process which evaluates for days does not grow; found by bench/soak.py."""
    model, x, y = trained

    how = {"norm": "linf", "eps": 0.3, "attacks": "standard", "keep_images": True}

    def tensors_after(number: int) -> int:
        evaluate(model, x[:2], y[:2], **how, store=tmp_path / str(number))
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    tensors_after(0)  # what is made once and kept
    assert tensors_after(1) == tensors_after(2)
