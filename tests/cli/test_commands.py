import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml  # type: ignore[import-untyped]

from easybn.cli.main import main
from easybn.models import load
from easybn.runs.run import Run

from .conftest import ENVIRONMENT
from .test_mistakes import RECIPE

SMALL = ("--train_images", "100", "--epochs", "1", "--batch_size", "45", "--device", "cpu")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nonsense"], []])
def test_the_first_answer_costs_no_torch(words):
    code = (
        "import sys; from easybn.cli.main import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules and 'jsonargparse' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT
    )
    assert done.returncode == (0 if words in (["--help"], ["--version"]) else 2), done.stderr
    assert "easybn" in done.stdout + done.stderr


def test_usage_names_every_command(easybn):
    from easybn.cli.main import COMMANDS

    found = easybn("--help")
    assert all(name in found.out and text in found.out for name, text in COMMANDS.items())
    for name in COMMANDS:
        help_ = easybn(name, "--help")
        assert (help_.status, help_.err) == (0, "")
        assert f"usage: easybn {name}" in help_.out


def test_fractions_are_understood(easybn):
    found = easybn("train", "--recipe", "EBN", "--recipe.attack.ball.eps", "8/255", *SMALL, "--out", "a")
    assert found.status == 0, found.err
    assert Run(Path("a")).config["recipe"]["attack"]["ball"] == {"class": "Linf", "eps": 8 / 255}
    assert easybn("evaluate", "a", "--eps", "8/255", "0.5", "--points", "5", "--steps", "1").status == 0
    assert {row["eps"] for row in Run(Path("a")).scores} == {None, 8 / 255, 0.5}


def test_the_printed_config_is_the_same_experiment(easybn):
    words = ["--recipe", "EBN", "--recipe.attack.ball.eps", "8/255", "--schedule", "Cosine", "--schedule.warmup", "0.5"]
    words += ["--ema", "0.9", *SMALL]
    printed = easybn("train", *words, "--print_config")
    assert printed.status == 0
    assert yaml.safe_load(printed.out)["recipe"]["init_args"]["attack"]["ball"]["init_args"]["eps"] == "8/255"
    Path("c.yaml").write_text(printed.out)
    assert easybn("train", *words, "--out", "a").status == 0
    found = easybn("train", "--config", "c.yaml", "--out", "a")
    assert found.status == 0, found.err
    assert easybn("train", "--config", "c.yaml", "--out", "b").status == 0
    digests = [json.loads(Path(name, "config.json").read_text())["digest"] for name in "ab"]
    assert digests[0] == digests[1]
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


def test_a_recipe_of_ones_own(easybn):
    Path("mine_in_a_test.py").write_text(RECIPE)
    where = "./mine_in_a_test.py:Mine"
    found = easybn("train", "--recipe", where, "--recipe.factor", "0.5", *SMALL)
    assert found.status == 0, found.err
    run = Run(Path("runs/sample-resnet_tiny-mine-0"))
    assert run.config["recipe"] == {"class": "mine_in_a_test.Mine", "factor": 0.5}
    halved = easybn("train", "--recipe", "Vanilla", "--recipe.weight", "0.5", *SMALL, "--out", "v")
    assert halved.status == 0
    ours, theirs = (load(folder).state_dict() for folder in (run.folder, "v"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("folder", [".", "below"])
def test_a_recipe_of_ones_own_in_a_file(folder, easybn, monkeypatch):
    Path("own_in_yaml.py").write_text(RECIPE)
    Path("below").mkdir()
    words = ["--recipe", "./own_in_yaml.py:Mine", "--recipe.factor", "0.5", *SMALL]
    printed = easybn("train", *words, "--print_config")
    assert printed.status == 0, printed.err
    assert yaml.safe_load(printed.out)["recipe"]["class_path"] == "./own_in_yaml.py:Mine"
    Path(folder, "c.yaml").write_text(printed.out)
    Path(folder, "short.yaml").write_text("recipe: './own_in_yaml.py:Mine'\n")
    assert easybn("train", *words, "--out", "a").status == 0
    del sys.modules["own_in_yaml"]
    found = easybn("train", "--config", f"{folder}/c.yaml", "--out", "b")
    assert found.status == 0, found.err
    assert Run(Path("a")).config == Run(Path("b")).config
    short = easybn("train", "--config", f"{folder}/short.yaml", "--recipe.factor", "0.5", *SMALL, "--out", "b")
    assert short.status == 0, short.err
    if folder == "below":  # and beside the file, from anywhere
        Path("own_in_yaml.py").rename("below/own_in_yaml.py")
        del sys.modules["own_in_yaml"]
        assert easybn("train", "--config", "below/c.yaml", "--out", "b").status == 0


def test_an_estimate_writes_nothing(easybn):
    before = set(Path().rglob("*"))
    found = easybn("train", "--recipe", "EBN", *SMALL, "--out", "a", "--estimate")
    assert found.status == 0, found.err
    assert "images/s" in found.out
    assert "on this machine as it is now" in found.out
    assert set(Path().rglob("*")) == before


def test_durations_as_people_say_them():
    from easybn.cli.train import duration

    spoken = {0.4: "0 seconds", 119: "119 seconds", 120: "2.0 minutes", 7199: "120.0 minutes", 7200: "2.0 hours"}
    assert {seconds: duration(seconds) for seconds in spoken} == spoken
    assert duration(3 * 86400) == "3.0 days"


def test_train_evaluate_table(easybn):
    for recipe in ("Vanilla", "EBN"):
        found = easybn("train", "--recipe", recipe, *SMALL)
        assert found.status == 0, found.err
        assert f"done: runs/sample-resnet_tiny-{recipe.lower()}-0" in found.out
    again = easybn("train", "--recipe", "EBN", *SMALL)
    assert again.status == 0
    accuracy = Run(Path("runs/sample-resnet_tiny-ebn-0")).metrics[-1]["val"]["easy"]["accuracy"]
    assert f"branch easy: accuracy {accuracy:.2%}" in again.out
    scored = easybn("evaluate", "runs", "--points", "20", "--steps", "5", "--eps", "0.5")
    assert scored.status == 0, scored.err
    shown = easybn("table", "runs", "--format", "markdown")
    assert shown.status == 0
    for run in (Run(path) for path in Path("runs").iterdir()):
        for row in run.scores:
            assert f"{100 * row['accuracy']:.2f} ±" in shown.out
            assert f"{100 * row['accuracy']:.2f} ±" in scored.out
    assert shown.out.count("resnet_tiny (EBN)") == shown.out.count("resnet_tiny (Vanilla)") == 2
    other = easybn("train", "--recipe", "EBN", *SMALL, "--lr", "0.2", "--out", "runs/sample-resnet_tiny-ebn-0")
    assert other.status == 2
    assert "training.lr: 0.1 -> 0.2" in other.err


def test_a_vision_transformer_gets_branches_in_its_layer_norms(tmp_path):
    words = ["train", "--recipe", "EBN", "--model", "timm:vit_tiny_patch16_224", "--norms", "[layer]"]
    options = '{"img_size": 28, "patch_size": 14, "depth": 1}'
    words += ["--model_options", options, "--train_images", "80", "--batch_size", "32", "--epochs", "1"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    scores = Run(tmp_path / "run").metrics[-1]["val"]
    assert list(scores) == ["main", "easy"]
    assert not any("norms" in name for name in load(tmp_path / "run").state_dict())
