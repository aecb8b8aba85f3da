"""Every config that comes with the package says what it claims, and runs."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from easybn import data
from easybn.cli import train
from easybn.cli.arguments import Parser, packaged
from easybn.cli.train import TRAINING
from easybn.perturb.ball import Linf
from easybn.recipes import EBN, AdversarialTraining, AdvProp, AdvPropEBN, EBNShared, FastAdvProp, FastEBN, Vanilla
from easybn.runs.config import Experiment
from easybn.runs.prepare import estimate
from easybn.train.schedule import Cosine, Training

RECIPES = {
    "vanilla": Vanilla(), "advprop": AdvProp(), "ebn": EBN(), "ebn-shared": EBNShared(),
    "advprop-ebn": AdvPropEBN(), "adversarial": AdversarialTraining(),
}  # fmt: skip
PAPER = Training(
    epochs=1000, batch_size=128, lr=0.1, schedule=Cosine(warmup=0.0), momentum=0.9, nesterov=False,
    weight_decay=5e-4, augment="none",
)  # fmt: skip
EXPECTED = {"demo": Experiment(recipe=EBN(), data="sample", model="resnet_tiny", training=TRAINING)}
for name, recipe in RECIPES.items():
    EXPECTED[f"fashion-mnist-{name}"] = Experiment(
        recipe=recipe, data="fashion-mnist", model="resnet_tiny", training=Training(epochs=6, batch_size=128, lr=0.1)
    )
    EXPECTED[f"cifar10-{name}"] = Experiment(
        recipe=recipe,
        data="cifar10",
        model="resnet_small",
        training=Training(epochs=6, batch_size=128, lr=0.1, augment="crop_flip"),
    )
for name, recipe in {"fast-advprop": FastAdvProp(), "fast-ebn": FastEBN()}.items():  # 1.2 * 5 epochs cost vanilla's 6
    EXPECTED[f"fashion-mnist-{name}"] = Experiment(
        recipe=recipe, data="fashion-mnist", model="resnet_tiny", training=Training(epochs=5, batch_size=128, lr=0.1)
    )
for source in ("fashion-mnist", "cifar10"):
    for model in ("resnet18", "resnet50"):
        for name in ("vanilla", "advprop", "ebn"):
            EXPECTED[f"paper-{source}-{model}-{name}"] = Experiment(
                recipe=RECIPES[name], data=source, model=model, validation=0.0, training=PAPER
            )


def experiment(*words: str) -> Experiment:
    parser = Parser(prog="easybn train", allow_abbrev=False)
    train.configure_train(parser)
    return train.experiment_of(parser.read(list(words)))


def test_these_are_all():
    assert set(packaged()) == set(EXPECTED)
    assert sum(name.startswith("paper-") for name in EXPECTED) == 12


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_what_it_is_called(name):
    found = experiment("--config", name)
    assert found == EXPECTED[name]
    assert found.digest == EXPECTED[name].digest
    assert experiment("--config", name, "--epochs", "3").training == replace(found.training, epochs=3)


def test_the_papers_attack_is_one_step_within_1_255():
    for name, found in EXPECTED.items():
        if name.startswith("paper-") and (attack := getattr(found.recipe, "attack", None)):
            assert (attack.steps, attack.ball) == (1, Linf(Fraction(1, 255)))


@pytest.mark.parametrize("name", EXPECTED)
def test_it_opens_with_command_time_and_score(name):
    lines = packaged()[name].read_text().splitlines()
    comments = "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    assert comments.startswith(f"# easybn train --config {name}\n")
    assert re.search(r"^# Time: .+\.$", comments, re.M)
    assert re.search(r"^# Score: .+\.$", comments, re.M)


def synthetic(name: str, **_: object) -> data.Source:
    """As many channels, pixels and classes as the real data set, eight images."""
    shape = (1, 28, 28) if name in ("sample", "fashion-mnist") else (3, 32, 32)
    images = torch.arange(8 * shape[0] * shape[1] * shape[2]).view(8, *shape).remainder(251).byte()
    split = data.Split(images, torch.arange(8))
    return data.Source.from_splits(name, [str(i) for i in range(10)], split, split)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("paper-")) for name in EXPECTED]
)
def test_it_runs_for_two_steps(name, monkeypatch):
    monkeypatch.setattr(data, "load", synthetic)
    asked = experiment("--config", name, "--batch_size", "2", "--epochs", "2", "--train_images", "4")
    found = estimate(asked, "cpu", most=1)
    assert found.steps >= 2
    assert found.step_seconds > 0


def test_a_folder_of_that_name_is_not_in_the_way(tmp_path):
    (tmp_path / "demo").mkdir()
    assert experiment("--config", "demo") == experiment("--config=demo") == EXPECTED["demo"]


def test_one_that_is_not_there(easybn):
    found = easybn("train", "--config", "fashion-mnist-enb")
    assert found.status == 2
    assert "no config of the package (did you mean fashion-mnist-ebn?)" in found.err
