"""What an evaluation is asked to do: what follows from its fields, attacks of a user's, and what studies have kept."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from easybn.attacks.apgd import APGD
from easybn.attacks.pgd import PGDSweep
from easybn.evaluation import evaluate
from easybn.evaluation.config import EvaluateConfig
from easybn.evaluation.store import Store
from easybn.perturb.ball import L2, Linf

from ..small import small_images, small_net

RESULTS = Path(__file__).parents[2] / "results"
HOW = {"norm": "linf", "eps": [0.01, 0.05], "diagnosis": False}


@dataclass(frozen=True)
class Mine(PGDSweep):
    """PGD under another name."""

    @property
    def name(self) -> str:
        return "mine"


@pytest.fixture
def points():
    model, x = small_net(), small_images(20)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("attack", [Mine(Linf(0.3), "ce", 5), [Mine(Linf(0.3), "ce", 5)]])
def test_an_attack_object_is_run_at_every_radius(attack, points):
    found = evaluate(*points, attacks=attack, **HOW)
    expected = evaluate(*points, attacks=[PGDSweep(Linf(1.0), "ce", 5)], **HOW)
    assert [score.attack for score in found.scores] == ["clean", "mine", "mine"]
    assert [score.eps for score in found.scores[1:]] == [0.01, 0.05]
    for eps in (0.01, 0.05):
        assert torch.equal(found.robust_at[eps], expected.robust_at[eps])
    assert 0 < int(found.robust_at[0.05].sum()) < int(found.robust_at[0.01].sum())


def test_a_class_is_called_with_the_ball_and_runs_beside_names(points):
    found = evaluate(*points, attacks=["apgd-ce", Mine], norm="l2", eps=0.2, diagnosis=False)
    assert found.scores[1].attack == "apgd-ce+mine"
    assert set(found.scores[1].broke) == {"clean", "apgd-ce", "mine"}


def test_a_store_knows_the_settings_and_the_class_of_a_users_attack(points, tmp_path):
    evaluate(*points, attacks=Mine(Linf(0.3), "ce", 5), store=tmp_path, **HOW)
    settings = Store.existing(tmp_path).manifest.settings["mine 0.05"]
    assert settings["class"].endswith("test_config:Mine")
    assert settings["steps"] == 5 or settings["moves"] == 5
    with pytest.raises(ValueError, match="another evaluation"):
        evaluate(*points, attacks=Mine(Linf(0.3), "ce", 6), store=tmp_path, **HOW)


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        (Mine(L2(0.3), "ce", 5), "the attack mine has a ball L2, and the evaluation is in linf"),
        ([Mine(Linf(0.3), "ce", 5), Mine], "an attack is named twice: mine, mine"),
        ([3], "unknown attack 3"),
        (["apgd"], r"unknown attack 'apgd' \(did you mean"),
        (["standard", "square"], "one preset, or names of attacks"),
        ([], "one preset, or names of attacks, got none"),
    ],
)
def test_attacks_that_make_no_sense(attacks, message, points):
    with pytest.raises(ValueError, match=message):
        evaluate(*points, attacks=attacks, **HOW)


def of_description(said: dict) -> EvaluateConfig:
    """The evaluation that a study has described in evaluated.json."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    given["diagnosis"] = given.pop("diagnosed", None)
    return EvaluateConfig.of_run(given.pop("attacks", ("pgd",)), **{k: v for k, v in given.items() if k != "class"})


def test_evaluations_that_studies_have_done_keep_their_digest():
    entries = [entry for path in RESULTS.rglob("evaluated.json") for entry in json.loads(path.read_text())]
    assert {entry["wanted"]["class"] for entry in entries} == {"Measurement", "Attacks"}
    for entry in entries:
        config = of_description(entry["wanted"])
        assert config.description == entry["wanted"]
        assert config.digest == entry["digest"]


def test_what_changes_no_row_changes_no_digest():
    pgd, attacks = EvaluateConfig.of_run(), EvaluateConfig.of_run(["square"])
    for config in (pgd, attacks):
        assert replace(config, device="cuda").digest == config.digest
        others = [{"seed": 1}, {"points": 7}, {"batch_size": 3}, {"branch": "easy"}, {"diagnosis": False}]
        assert len({replace(config, **change).digest for change in [{}, *others]}) == len(others) + 1
    assert replace(attacks, share=False).digest != attacks.digest
    assert APGD(Linf(0.1), "ce").name in str(EvaluateConfig.of_run(["apgd-ce"]))
