"""``--data my.py:make``: a user's data set in training and evaluation; a stored name of it runs nothing."""

import json
from pathlib import Path

import pytest

from easybn import user_code
from easybn.runs.run import Run

CODE = """
from pathlib import Path
import torch

def make():
    with open("ran", "a") as file:
        file.write("x")
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 12, 12), generator=draw, dtype=torch.uint8)
    labels = torch.arange(60) % 3
    return (images[:40], labels[:40]), (images[40:], labels[40:])

def fails():
    raise RuntimeError("no such thing")

def wrong():
    return 3
"""
SMALL = ("--epochs", "1", "--batch_size", "20", "--validation", "0.1", "--device", "cpu")
EVALUATE = ("--attacks", "clean", "--points", "5")


@pytest.fixture(autouse=True)
def _nothing_permitted_yet():
    user_code._permitted.clear()
    yield
    user_code._permitted.clear()


def ran() -> int:
    return len(Path("ran").read_text()) if Path("ran").exists() else 0


def test_it_is_trained_on_and_evaluated_where_the_command_line_names_it(easybn):
    Path("mine_of_data.py").write_text(CODE)
    name = "mine_of_data.py:make"
    found = easybn("train", "--data", name, *SMALL)
    assert found.status == 0, found.err
    folder = "runs/mine_of_data-resnet_tiny-vanilla-0"
    assert Run(Path(folder)).config["data"] == name
    described = easybn("data", name)
    assert described.status == 0, described.err
    for text in ("name     mine_of_data", "40 for training, 20 for test", "1 x 12 x 12", "3: 0, 1, 2"):
        assert text in described.out

    user_code._permitted.clear()  # another call of the program
    before = ran()
    refused = easybn("evaluate", folder, *EVALUATE)
    assert refused.status == 2
    assert f"made by code, {name}, and a stored name runs no code: repeat it on the command line, --data {name}" in (
        refused.err
    )
    assert ran() == before
    found = easybn("evaluate", folder, "--data", name, *EVALUATE)
    assert found.status == 0, found.err
    assert Run(Path(folder)).scores[0]["data"] == "mine_of_data"
    user_code._permitted.clear()
    assert easybn("summarise", folder).status == 2
    found = easybn("summarise", folder, "--data", name)
    assert found.status == 0, found.err


def test_other_code_than_that_of_the_run_is_refused(easybn):
    Path("mine_of_data.py").write_text(CODE)
    assert easybn("train", *SMALL, "--train_images", "60", "--out", "plain").status == 0
    assert easybn("train", "--data", "mine_of_data:make", *SMALL, "--out", "own").status == 0
    for folder, trained_on in (("plain", "sample"), ("own", "mine_of_data:make")):
        user_code._permitted.clear()
        found = easybn("evaluate", folder, "--data", "mine_of_data.py:make", *EVALUATE)
        assert found.status == 2
        assert f"{folder} was trained on {trained_on}: leave it out" in found.err
    found = easybn("evaluate", "own", "--data", "sample", *EVALUATE)
    assert (found.status, "--data is for a model of yours" in found.err) == (2, True)


@pytest.mark.parametrize("folder", [".", "below"])
def test_a_yaml_file_names_it_and_it_is_said_that_it_runs(folder, easybn):
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "mine_of_data.py").write_text(CODE)
    Path(folder, "c.yaml").write_text("data: mine_of_data.py:make\n")
    path = Path(folder, "mine_of_data.py").resolve()
    for words in (("--print_config",), ("--help",)):
        easybn("train", "--config", f"{folder}/c.yaml", *words)
    assert ran() == 0
    found = easybn("train", "--config", f"{folder}/c.yaml", *SMALL, "--out", "r")
    assert found.status == 0, found.err
    assert found.err.splitlines()[0] == f"easybn: {folder}/c.yaml names code, which runs now: {path}, function make"
    assert Run(Path("r")).config["data"] == ("mine_of_data.py:make" if folder == "." else f"{path}:make")


def test_a_stored_name_runs_nothing(easybn):
    assert easybn("train", *SMALL, "--train_images", "60", "--out", "r").status == 0
    Path("evil_of_data.py").write_text("open('mark', 'w').close()\ndef make(): open('mark', 'w').close()\n")
    config = json.loads(Path("r/config.json").read_text())
    config.pop("checksum")
    config["experiment"]["data"] = "evil_of_data.py:make"
    config.pop("digest", None)
    Path("r/config.json").write_text(json.dumps(config))
    for command in (("evaluate", "r", *EVALUATE), ("summarise", "r"), ("report", "r"), ("table", "r")):
        easybn(*command)
        assert not Path("mark").exists(), command


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("none.py:make", "--data none.py:make: there is no file none.py"),
        ("mine_of_data.py:mak", "no function 'mak' in mine_of_data.py; it has Path, make, fails, wrong"),
        ("mine_of_data.py:fails", "fails failed: RuntimeError: no such thing"),
        ("mine_of_data.py:wrong", "returned a int, expected an easybn.data.Source or (train, test)"),
        ("nowhere_of_data:make", "nowhere_of_data cannot be imported: ModuleNotFoundError"),
    ],
)
def test_mistakes_are_one_line(name, told, easybn):
    Path("mine_of_data.py").write_text(CODE)
    for words in (("train", "--data", name, *SMALL), ("data", name)):
        found = easybn(*words)
        assert found.status == 2
        assert told in found.err
        assert len(found.err.strip().splitlines()) == 1


def test_a_users_model_and_data_are_repeated_together(easybn):
    net = "\nfrom torch import nn\ndef net():\n    torch.manual_seed(0)\n"
    net += "    return nn.Sequential(nn.Flatten(), nn.Linear(144, 3))\n"
    Path("mine_of_data.py").write_text(CODE + net)
    both = ("--model", "mine_of_data.py:net", "--data", "mine_of_data.py:make")
    quick = ("--attacks", "pgd-ce", "--norm", "linf", "--eps", "0.01", "--points", "5", "--no_diagnosis")
    found = easybn("evaluate", *both, *quick, "--out", "o")
    assert found.status == 0, found.err
    for words in ((), both[:2]):
        refused = easybn("evaluate", "o", *words, *quick)
        assert refused.status == 2
        assert "repeat it" in refused.err
    found = easybn("evaluate", "o", *both, *quick)
    assert found.status == 0, found.err


def test_options_of_other_data_do_not_apply(easybn):
    Path("mine_of_data.py").write_text(CODE)
    found = easybn("train", "--data", "mine_of_data.py:make", "--resize", "8", *SMALL)
    assert (found.status, "resize is for image folders and does not apply" in found.err) == (2, True), found.err
