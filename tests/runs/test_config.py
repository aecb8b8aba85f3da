import json
from dataclasses import dataclass, fields, replace
from fractions import Fraction

import pytest

from easybn.perturb.ball import L2, Linf
from easybn.perturb.pgd import PGD
from easybn.recipes import EBN, AdvProp, Recipe, Vanilla
from easybn.runs.config import Experiment
from easybn.runs.description import describe, differences
from easybn.train.schedule import Constant, Cosine, Training

OTHER = {
    "recipe": EBN(),
    "data": "cifar10",
    "model": "resnet18",
    "model_options": {"pretrained": True},
    "norms": ("layer",),
    "share": "affine",
    "validation": 0.2,
    "train_images": 100,
    "resize": 32,
    "channels": 1,
    "test_fraction": 0.2,
}
OTHER_TRAINING = {
    "epochs": 11, "batch_size": 64, "lr": 0.2, "schedule": Constant(), "momentum": 0.8, "nesterov": True,
    "weight_decay": 0.0, "clip_norm": 1.0, "ema": 0.9, "augment": "crop_flip", "precision": "bf16",
    "channels_last": False, "compile": True, "sync_batchnorm": True, "seed": 1,
}  # fmt: skip


def test_the_cases_below_are_all_there_is():
    assert {f.name for f in fields(Experiment)} == {*OTHER, "data_folder", "leave_out", "left_out", "training"}
    assert {f.name for f in fields(Training)} == set(OTHER_TRAINING)


def test_every_field_that_changes_results_changes_the_digest():
    base = Experiment(recipe=AdvProp())
    others = [replace(base, **{name: value}) for name, value in OTHER.items()]
    others += [Experiment(training=Training(**{name: value})) for name, value in OTHER_TRAINING.items()]
    others += [Experiment(recipe=recipe) for recipe in (
        Vanilla(), Vanilla(weight=0.5), EBN(attack=PGD(Linf(2 / 255))), EBN(attack=PGD(L2(1 / 255))),
        EBN(attack=PGD(Linf(1 / 255), steps=2)), EBN(through="main"), EBN(mode="train"),
    )]  # fmt: skip
    others.append(Experiment(training=Training(schedule=Cosine(warmup=1))))
    digests = [each.digest for each in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 12 for digest in digests)


def test_what_changes_no_result_changes_no_digest():
    assert Experiment(data_folder="elsewhere").digest == Experiment().digest
    assert Experiment(training=Training(lr=1)).digest == Experiment(training=Training(lr=1.0)).digest
    ball = [Experiment(recipe=EBN(attack=PGD(Linf(eps)))) for eps in (8 / 255, Fraction(8, 255))]
    assert ball[0].digest == ball[1].digest
    assert differences(describe(Experiment(data_folder="a")), describe(Experiment(data_folder="b"))) == []


@dataclass(frozen=True)
class Own(Recipe):
    """Of a user."""

    strength: float = 1.0
    branches = ("main",)

    def __call__(self, model, x, y, ctx=None):
        yield from ()


def test_a_description_is_json_and_names_classes():
    found = describe(Experiment(recipe=EBN(attack=PGD(Linf(Fraction(8, 255))))))
    assert json.loads(json.dumps(found)) == found
    assert found["recipe"]["class"] == "EBN"
    assert found["recipe"]["attack"]["ball"] == {"class": "Linf", "eps": 8 / 255}
    assert describe(Own())["class"] == f"{__name__}.Own"
    assert Experiment(recipe=Own(2.0)).digest != Experiment(recipe=Own()).digest


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({"data": "cifar10"}, ["data: 'cifar10' -> 'sample'"]),
        ({"recipe": Vanilla(weight=0.5)}, ["recipe.weight: 0.5 -> 1.0"]),
        ({"recipe": EBN()}, ["recipe: EBN -> Vanilla"]),
        ({"training": Training(lr=0.3, schedule=Cosine(2))},
         ["training.lr: 0.3 -> 0.1", "training.schedule.warmup: 2 -> 0.0"]),
        ({"model_options": {"a": 1}}, ["model_options.a: 1 -> None"]),
        ({}, []),
    ],
)  # fmt: skip
def test_differences_name_the_fields(theirs, expected):
    ours = Experiment()
    assert differences(describe(ours), describe(replace(ours, **theirs))) == expected


def test_validation_is_a_share():
    with pytest.raises(ValueError, match=r"validation is a share .* got 1"):
        Experiment(validation=1.0)
