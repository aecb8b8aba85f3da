"""A user's recipe, schedule and model, named as ``my.py:Name`` or ``module:name``; a stored name runs nothing."""

import json
import sys
from pathlib import Path

import pytest

from easybn.runs.run import Run

CODE = """
from dataclasses import dataclass
from torch import nn
from easybn.attacks.pgd import PGDSweep
from easybn.recipes import Context, Recipe, Term
from easybn.train.schedule import Schedule

open("ran", "a").close()

@dataclass(frozen=True)
class Twice(PGDSweep):
    steps: int = 2
    name = "twice"

@dataclass(frozen=True)
class Mine(Recipe):
    branches = ("main",)
    weight: float = 1.0

    def __call__(self, model, x, y, ctx=Context()):
        yield Term.cross_entropy("main", model(x), y, self.weight)

@dataclass(frozen=True)
class Flat(Schedule):
    def rate(self, peak, epoch, epochs):
        return peak

def net(num_classes, width=4):
    first = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.BatchNorm1d(width))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(width, num_classes))

def fails(num_classes):
    raise RuntimeError("no such net")
"""
SMALL = ("--epochs", "1", "--train_images", "64", "--batch_size", "32", "--validation", "0", "--device", "cpu")
EVALUATE = ("--attacks", "clean", "--points", "5")


@pytest.fixture(autouse=True)
def _code():
    yield
    for name in ("mine_all", "mine_module"):
        sys.modules.pop(name, None)


def written(name: str = "mine_all.py") -> None:
    Path(name).write_text(CODE)


def test_a_recipe_of_a_module_is_named_as_one_of_a_file(easybn):
    written("mine_module.py")
    for number, name in enumerate(("mine_module:Mine", "./mine_module.py:Mine")):
        found = easybn("train", "--recipe", name, "--recipe.weight", "2", *SMALL, "--out", f"r{number}")
        assert found.status == 0, found.err
        assert Run(Path(f"r{number}")).config["recipe"] == {"class": "mine_module.Mine", "weight": 2.0}


def test_a_model_is_trained_and_evaluated_where_the_command_line_names_it(easybn):
    written()
    words = ("--model", "mine_all.py:net", "--model_options", "{width: 3}")
    found = easybn("train", *words, "--recipe", "EBN", *SMALL)
    assert found.status == 0, found.err
    folder = "runs/sample-mine_all.py-net-ebn-0"
    assert Run(Path(folder)).config["model"] == "mine_all.py:net"
    Path("ran").unlink()
    sys.modules.pop("mine_all")
    refused = easybn("evaluate", folder, *EVALUATE)
    assert (refused.status, "repeat it on the command line, --model mine_all.py:net" in refused.err) == (2, True)
    other = easybn("evaluate", folder, "--model", "mine_all.py:fails", *EVALUATE)
    assert (other.status, "was trained here" in other.err) == (2, True), other.err
    assert not Path("ran").exists()
    found = easybn("evaluate", folder, "--model", "mine_all.py:net", *EVALUATE)
    assert found.status == 0, found.err
    assert Path("ran").exists()
    assert easybn("evaluate", folder, *EVALUATE).status == 2  # a permit ends with its command


@pytest.mark.parametrize(
    ("text", "code"),
    [("model: mine_all.py:net", "function net"), ("recipe: mine_all.py:Mine", "class Mine"),
     ("schedule: {class_path: mine_all.py:Flat}", "class Flat")],
)  # fmt: skip
def test_a_yaml_file_names_it_and_it_is_announced(text, code, easybn):
    Path("below").mkdir()
    written("below/mine_all.py")
    Path("below/c.yaml").write_text(f"{text}\n")
    for words in (("--print_config",), ("--help",)):
        easybn("train", "--config", "below/c.yaml", *words)
    assert not Path("ran").exists()
    found = easybn("train", "--config", "below/c.yaml", *SMALL, "--out", "r")
    assert found.status == 0, found.err
    path = Path("below/mine_all.py").resolve()
    assert found.err.splitlines()[0] == f"easybn: below/c.yaml names code, which runs now: {path}, {code}"


@pytest.mark.parametrize("field", ["data", "model", "recipe"])
def test_a_stored_name_runs_nothing(field, easybn):
    assert easybn("train", *SMALL, "--out", "r").status == 0
    written()
    config = json.loads(Path("r/config.json").read_text())
    config.pop("checksum")
    config.pop("digest")
    name = "mine_all.py:net"
    config["experiment"][field] = {"class": name} if field == "recipe" else name
    Path("r/config.json").write_text(json.dumps(config))
    for words in (("evaluate", "r", *EVALUATE), ("census", "r"), ("summarise", "r"), ("table", "r"), ("report", "r")):
        easybn(*words)
        assert not Path("ran").exists(), words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--recipe mine_all.py:net", "--recipe mine_all.py:net: no recipe 'net' in mine_all.py; it has Mine"),
        ("--schedule mine_all.py:Mine", "no schedule 'Mine' in mine_all.py; it has Flat"),
        ("--model mine_all.py:nets", "no function 'nets' in mine_all.py"),
        ("--model mine_all.py:fails", "--model mine_all.py:fails: fails failed: RuntimeError: no such net"),
        ("--model nowhere_at_all:net", "nowhere_at_all cannot be imported: ModuleNotFoundError"),
    ],
)
def test_mistakes_are_one_line(words, message, easybn):
    written()
    found = easybn("train", *words.split(), *SMALL)
    assert found.status == 2
    assert message in found.err
    assert len(found.err.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_a_study_names_code_of_every_kind(easybn):
    written()
    Path("s.yaml").write_text(
        "runs:\n"
        "  - {name: a, recipe: ./mine_all.py:Mine, train_images: 64, epochs: 1, batch_size: 32}\n"
        "  - {name: b, schedule: mine_all.py:Flat, train_images: 64, epochs: 1, batch_size: 32}\n"
        "  - {name: c, model: mine_all.py:net, train_images: 64, epochs: 1, batch_size: 32}\n"
        "evaluate:\n  - {attacks: [mine_all.py:Twice], norm: linf, eps: 8/255, points: 4, no_diagnosis: true}\n"
    )
    shown = easybn("study", "s.yaml", "--dry_run")
    assert shown.status == 0, shown.err
    for name in ("a-0", "b-0", "c-0", "mine_all.py:Twice"):
        assert name in shown.out
    assert not Path("ran").exists()
    found = easybn("study", "s.yaml", "--jobs", "0", "--device", "cpu", "--out", "o")
    assert found.status == 0, found.out + found.err
    path = Path("mine_all.py").resolve()
    for code in ("class Twice", "function net"):  # the recipe is in the same file, which is announced once
        assert f"easybn: s.yaml names code, which runs now: {path}, {code}" in found.err
    for name in ("a-0", "b-0", "c-0"):
        assert [row["attack"] for row in Run(Path("o", name)).scores] == ["clean", "twice"]
