"""The examples, run as a user would run them (with less data)."""

import ast
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from easybn import run_study
from easybn.cli import study_file
from easybn.cli.main import main
from easybn.data import load as load_data
from easybn.models import load

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _examples_are_forgotten():
    yield
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    loaded = sys.modules[name] = importlib.util.module_from_spec(spec)  # where libraries look up a class's module
    spec.loader.exec_module(loaded)
    return loaded


def test_own_loop_learns_and_gives_a_plain_model():
    plain, accuracy = module("own_loop").train(epochs=2, images=1500, batch_size=50)
    assert accuracy > 0.5  # ten classes
    assert not any("norms" in name for name in plain.state_dict())


@pytest.fixture
def timms_hub():
    if not import_module("timm.models._hub").has_hf_hub():
        pytest.skip("timm 1.0.9 writes its folder with huggingface_hub before 1.0")


@pytest.mark.slow
@pytest.mark.usefixtures("timms_hub")
@pytest.mark.filterwarnings("ignore")  # timm's own
def test_timms_training_resumes_and_its_plain_network_is_read_by_timm(tmp_path):
    timm_loop = module("timm_loop")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    expected = timm_loop.train(whole, epochs=2, images=100).state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm_loop, "print", lambda text: raise_interrupt(), raising=False)  # after the first epoch
        with pytest.raises(KeyboardInterrupt):
            timm_loop.train(stopped, epochs=2, images=100)
    resumed = timm_loop.train(stopped, epochs=2, images=100).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    assert 0 <= timm_loop.accuracy(stopped / "timm") <= 1  # timm has all its keys


@pytest.mark.slow
@pytest.mark.usefixtures("timms_hub")
@pytest.mark.filterwarnings("ignore")
def test_timm_reads_the_folder_of_the_stripped_network(tmp_path):
    import timm

    network = module("timm_loop").train(tmp_path, epochs=1, images=100)
    source = load_data("sample")
    x = source.test.batch(torch.arange(8))[0]
    about = {"num_classes": 10, "in_chans": 1}
    weights = str(tmp_path / "timm/model.safetensors")
    read = [timm.create_model("resnet10t", checkpoint_path=weights, **about)]
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert (config["architecture"], config["label_names"]) == ("resnet10t", list(source.classes))
    if Version(timm.__version__) >= Version("1.0.17"):
        read.append(timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True))
        found = import_module("timm.data").resolve_model_data_config(read[1])
        assert (list(found["mean"]), list(found["std"])) == (list(source.mean), list(source.std))
        assert found["input_size"] == (1, 28, 28)
    with torch.no_grad():
        for model in read:
            assert torch.equal(model.eval()(x), network(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_hugging_faces_trainer_resumes_and_its_plain_network_is_read_by_transformers(tmp_path):
    hf_trainer = module("hf_trainer")
    options = {"epochs": 2, "images": 100, "use_cpu": True, "disable_tqdm": True}
    expected = hf_trainer.train(tmp_path / "whole", **options).deployable().state_dict()
    scores = iter([{"accuracy": 0.5}])  # the training is stopped at the second evaluation
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_trainer, "accuracy", lambda _: next(scores, None) or raise_interrupt())
        with pytest.raises(KeyboardInterrupt):
            hf_trainer.train(tmp_path / "stopped", **options)
    assert [path.name for path in (tmp_path / "stopped").glob("checkpoint-*")] == ["checkpoint-2"]
    hf_trainer.train(tmp_path / "stopped", **options)
    resumed = hf_trainer.PixelResNetForImageClassification.from_pretrained(tmp_path / "stopped").state_dict()
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())


def raise_interrupt():
    raise KeyboardInterrupt


def test_my_recipe_runs_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "easybn", "train", "--recipe", f"{EXAMPLES / 'my_recipe.py'}:EasyConsistency"]
    command += ["--recipe.weight", "0.3", "--epochs", "1", "--train_images", "300", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "branch easy" in done.stdout
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["appearance"] == {"label": "Consistency", "colour": ["#5d5bb8", "#a9a7ff"], "order": 100}
    assert load(tmp_path / "run")(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_my_dataset_runs_from_the_command_line(tmp_path):
    command = ["train", "--data", f"{EXAMPLES / 'my_dataset.py'}:make", "--out", str(tmp_path / "run")]
    assert main([*command, "--model", "resnet_tiny", "--epochs", "2", "--batch_size", "32"]) == 0
    assert load(tmp_path / "run")(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    source = module("my_dataset").make()
    model = load(tmp_path / "run")
    x, y = source.test.batch(torch.arange(len(source.test)))
    assert float((model(x).argmax(1) == y).float().mean()) > 0.5  # three classes


def test_a_study_in_python_is_done(tmp_path):
    study = module("study_in_python").study(seeds=1, epochs=1, images=100, points=4)
    states = run_study(study, tmp_path / "runs", device="cpu")
    assert {name: state.kind for name, state in states.items()} == {
        "vanilla-0": "done", "advprop-0": "done", "ebn-0": "done",
    }  # fmt: skip


def test_my_attack_runs_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "evaluation"
    command = ["evaluate", "--model", "fashion-mnist-vanilla", "--out", str(out), "--no_diagnosis"]
    command += ["--attacks", "apgd-ce", f"{EXAMPLES / 'my_attack.py'}:MIFGSM", "--eps", "4/255", "--points", "12"]
    assert main(command) == 0
    assert "apgd-ce+mi-fgsm" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    (row,) = (row for row in rows if row["attack"] == "apgd-ce+mi-fgsm")
    assert row["appearance"]["mi-fgsm"]["label"] == "MI-FGSM"
    assert row["correct"] + sum(row["broke"].values()) == row["n"] == 12


def test_the_studies_of_easy_recipes_are_read_and_compare_like_with_like():
    studies = {path.stem: study_file.read(path) for path in EXAMPLES.glob("easy_*.yaml")}
    assert {name: len(study.runs) for name, study in studies.items()} == {
        "easy_fashion_mnist": 39, "easy_shared_affine": 13 * 5, "easy_cifar10": 10 * 5, "easy_length": 5 * 2 * 3,
        "easy_clean_tier": 4 * 30,
    }  # fmt: skip
    for name, study in studies.items():
        trained = {replace(run.experiment.training, seed=0, lr=0.1) for run in study.runs}
        assert len(trained) == (2 if name == "easy_length" else 1)  # but for vanilla's half rate only recipes differ
    first, finalists = studies["easy_fashion_mnist"], studies["easy_shared_affine"]
    seeds = [{run.experiment.training.seed for run in study.runs} for study in (first, finalists)]
    assert not seeds[0] & seeds[1]  # the best are chosen on other seeds than they are judged by
    kinds = {type(run.experiment.recipe).__name__ for run in first.runs}
    assert kinds == {"Vanilla", "AdversarialTraining", "AdvProp", "MixedProp", "EaseWrong", "EBNOwnAnswer", "BothWays",
                     "SignedProp", "GapEBN", "EntProp"}  # fmt: skip


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES.glob("*.py")])
def test_every_example_says_how_to_run_it(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert f"examples/{name}.py" in ast.get_docstring(ast.parse(text))
