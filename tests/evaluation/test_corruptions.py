"""Accuracy under corruptions, against classifying corrupted images one by one."""

import pytest
import torch
from torch import nn

import easybn
from easybn.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from easybn.evaluation.config import EvaluateConfig
from easybn.evaluation.corruptions import CorruptionConfig, CorruptionEvaluation, evaluate_corruptions
from easybn.stats import accuracy_interval

SOME = {"kinds": ("shot_noise", "contrast", "frost"), "severities": (1, 5)}


class Mean(nn.Module):
    """Class 1 where the mean is above a half: exact arithmetic in any batch."""

    def forward(self, x):
        mean = (x.double() * 255).round().sum((1, 2, 3)) / (255 * x[0].numel())
        return torch.stack((0.5 - mean, mean - 0.5), 1)


def test_every_verdict_is_that_of_the_corrupted_image(trained):
    _, x, _ = trained
    x, model, ids = x[:40], Mean(), torch.arange(40) * 7
    x = (x * 400).round().clamp(0, 255) / 255  # brighter, so that both classes are there
    y = model(x).argmax(1)
    result = evaluate_corruptions(model, x, y, **SOME, seed=3, ids=ids, batch_size=16)
    assert result.clean.all()
    assert list(result.right) == [(kind, severity) for kind in SOME["kinds"] for severity in (1, 5)]
    for (kind, severity), right in result.right.items():
        slow = [model(corrupt(x[i : i + 1], kind, severity, seed=3, ids=ids[i : i + 1])).argmax(1) for i in range(40)]
        assert torch.equal(right, torch.cat(slow) == y)
    assert 0 < result.mean_accuracy < 1
    whole = evaluate_corruptions(model, x, y, seed=3, ids=ids)
    assert list(whole.right) == [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]
    part = evaluate_corruptions(model, x[5:9], y[5:9], seed=3, ids=ids[5:9])
    for each, right in part.right.items():
        assert torch.equal(right, whole.right[each][5:9])


def test_the_model_is_left_as_it_was(trained):
    model, x, y = trained
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        result = evaluate_corruptions(model, x[:8], y[:8], kinds=("fog",), severities=(2,))
    finally:
        training, _ = model.training, model.eval()
    assert training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any("came in train mode" in note for note in result.notes)
    assert not any("frost" in note for note in result.notes)


def test_means_count_every_point_once():
    right = {("fog", 1): [1, 1, 0, 1], ("fog", 2): [1, 0, 0, 1], ("jpeg_compression", 1): [1, 1, 0, 0]}
    found = CorruptionEvaluation(torch.tensor([True] * 4), {each: torch.tensor(r).bool() for each, r in right.items()})
    assert found.accuracy("fog", 1) == 0.75
    assert found.accuracy("fog") == 5 / 8
    assert found.accuracy("weather") == 5 / 8
    assert found.accuracy("digital") == 0.5
    assert found.accuracy(severity=1) == 5 / 8
    assert found.mean_accuracy == found.accuracy() == 7 / 12
    assert found.interval("fog", 1) == pytest.approx(accuracy_interval(3, 4))
    # shares 3/3, 2/3, 0, 2/3 of four points vary by 0.1319; single answers by 7/12 * 5/12 = 0.2431
    shares = torch.tensor([3, 2, 0, 2]) / 3
    effective = 4 * (7 / 12 * 5 / 12) / float(shares.var(correction=0))
    assert 4 < effective < 12
    assert found.interval().half_width == pytest.approx(
        accuracy_interval(7, 12).half_width * (12 / effective) ** 0.5, rel=0.1
    )
    with pytest.raises(ValueError, match="there is no snow at severity any among the results"):
        found.accuracy("snow")
    text = repr(found).splitlines()
    assert text[0].startswith("mean corruption accuracy (mCA): 58.3% (95%: ")
    assert text[1].startswith("clean accuracy: 100.0% (95%: ")
    assert text[2:] == ["fog: 62.5% (75.0 50.0)", "jpeg_compression: 50.0% (50.0)"]


def test_what_is_known_is_not_computed_again():
    x, y = torch.rand(6, 1, 8, 8), torch.zeros(6).long()
    calls, kinds, steps = [], [], []

    def corrupted(kind, severity, rows):
        calls.append((kind, severity))
        return x[rows]

    known = {
        ("contrast", 1): torch.ones(6).bool(),
        ("frost", 1): torch.ones(6).bool(),
        ("frost", 5): torch.zeros(6).bool(),
    }
    result = evaluate_corruptions(
        Mean(), x, y, **SOME, corrupted=corrupted, batch_size=6, known=known,
        on_kind=lambda kind, right: kinds.append((kind, sorted(right))), progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert calls == [("shot_noise", 1), ("shot_noise", 5), ("contrast", 5)]
    assert kinds == [("shot_noise", [("shot_noise", 1), ("shot_noise", 5)]), ("contrast", [("contrast", 5)])]
    assert [step[:2] for step in steps] == [(6, 24), (12, 24), (18, 24), (24, 24)]
    assert steps[-1][2] == "corruptions, contrast 5"
    assert all(torch.equal(result.right[each], right) for each, right in known.items())
    assert torch.equal(result.right["shot_noise", 5], result.clean)
    assert not any("frost" in note for note in result.notes)  # it is theirs


def test_images_that_are_others_have_no_clean_accuracy():
    x, y = torch.rand(6, 1, 8, 8), torch.ones(6).long()

    def white(kind, severity, rows):
        return torch.ones(len(rows), 1, 8, 8)

    result = evaluate_corruptions(Mean(), x, y, **SOME, corrupted=white, paired=False)
    assert result.clean is result.clean_accuracy is None
    assert result.mean_accuracy == 1
    assert "clean" not in repr(result)


def test_an_answer_that_is_none_is_wrong():
    class Broken(nn.Module):
        def forward(self, x):
            logits = Mean()(x)
            return torch.where(x.amax((1, 2, 3))[:, None] == 1, torch.nan, logits)

    x = torch.full((5, 1, 8, 8), 0.2)
    result = evaluate_corruptions(
        Broken(), x, torch.zeros(5).long(), kinds=("impulse_noise", "contrast"), severities=(5,)
    )
    assert result.accuracy("contrast") == 1
    assert result.accuracy("impulse_noise") < 1


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"kinds": ("rain",)}, ValueError, "unknown corruption 'rain'; known: gaussian_noise"),
        ({"kinds": ()}, ValueError, "kinds must be named"),
        ({"severities": (0, 1)}, ValueError, r"severities among 1 \.\. 5, got .* and \[0, 1\]"),
        ({"x": torch.rand(2, 2, 8, 8)}, ValueError, "grey or RGB images .* got 2 x 8 x 8"),
        ({"x": torch.rand(2, 1, 8, 8) * 2}, ValueError, r"images must be in \[0, 1\]"),
        ({"x": torch.zeros(2, 1, 8, 8).byte()}, TypeError, "floating point"),
        ({"y": torch.tensor([0, 2])}, ValueError, r"labels must be in 0 \.\. 1 for 2 logits"),
    ],
)
def test_mistakes_are_told(change, error, said):
    asked = {"x": torch.rand(2, 1, 8, 8), "y": torch.tensor([0, 1]), "kinds": ("fog",), **change}
    with pytest.raises(error, match=said):
        easybn.evaluate_corruptions(Mean(), asked.pop("x"), asked.pop("y"), **asked)


def test_a_config_is_what_changes_results():
    usual = CorruptionConfig()
    assert usual.description == {"class": "Corruptions"}
    for change in ({"source": "generated"}, {"points": 7}, {"seed": 1}, {"branch": "easy"}):
        changed = CorruptionConfig(**change)
        assert changed.description == {"class": "Corruptions", **change}
        assert changed.digest != usual.digest
    for same in ({"device": "cpu"}, {"batch_size": 3}, {"folder": "there"}):
        assert CorruptionConfig(**same).digest == usual.digest
    assert usual.digest != EvaluateConfig.of_run().digest
    assert str(CorruptionConfig(source="published", branch="easy")) == "corruptions published branch easy"
    for wrong, said in (
        ({"source": "mine"}, "unknown source of corruptions 'mine'; known: auto, generated, published"),
        ({"points": 0}, "points must be at least 1, got 0"),
        ({"source": "generated", "folder": "x"}, "does not go with generated ones"),
    ):
        with pytest.raises(ValueError, match=said):
            CorruptionConfig(**wrong)
