"""Labels belong to a model's outputs by the names of the classes, wherever a command brings a model and data together.

Every picture is one grey level, its class's. ``Level`` tells levels apart without any training; a model that is trained
on three such classes does so after a few steps.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from easybn.data import load
from easybn.models import build, weights
from easybn.runs.config import Experiment
from easybn.runs.run import Run, train
from easybn.train.schedule import Training

LEVELS = {"cat": 40, "dog": 128, "emu": 215}
MODEL = """
import torch
from torch import nn

class Level(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels) / 255)

    def forward(self, x):
        return -50 * (x.mean((1, 2, 3))[:, None] - self.levels) ** 2

def three(): return Level([40.0, 128.0, 215.0])
def turned(): return Level([215.0, 40.0, 128.0])
def many(): return Level([float(i) for i in range(256)])
"""
FAST = ("--attacks", "clean")


def pictures(root: Path, classes: Sequence[str], splits: Sequence[str] = ("train", "test"), count: int = 12) -> Path:
    draw = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                values = LEVELS[name] + draw.integers(-3, 4, (8, 8, 3))
                Image.fromarray(values.astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("levels_of_grey.py").write_text(MODEL)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A run on three levels that tells them apart, with its data set beside it."""
    home = tmp_path_factory.mktemp("grey")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        data = str(pictures(home / "grey", list(LEVELS), count=30))
        training = Training(epochs=8, batch_size=30, lr=0.1)
        return train(Experiment(data=data, validation=0.0, training=training), home / "run", device="cpu").folder


@pytest.fixture
def run(trained_run):
    """The same with a copy of its data set that a test may change."""
    shutil.copytree(trained_run, "run")
    shutil.copytree(trained_run.parent / "grey", "grey")
    config = json.loads(Path("run/config.json").read_text())
    config["experiment"]["data"] = str(Path("grey").resolve())
    del config["checksum"]
    Path("run/config.json").write_text(json.dumps(config))
    return Path("run")


def accuracy(found, folder: str) -> float:
    assert found.status == 0, found.err
    rows = [json.loads(line) for line in Path(folder, "scores.jsonl").read_text().splitlines()]
    return [row["accuracy"] for row in rows if row["attack"] == "clean"][-1]


def rename(old: str, new: str | None) -> None:
    for split in ("train", "test"):
        folder = Path("grey", split, old)
        folder.rename(folder.with_name(new)) if new else shutil.rmtree(folder)


EVALUATIONS = [
    ("evaluate", "run", *FAST),
    ("evaluate", "run", "--eps", "0.1", "--points", "4", "--steps", "1"),
    ("evaluate", "run", "--attacks", "pgd-ce", "--points", "4", "--estimate"),
    ("evaluate", "--weights", "run/model.safetensors", "--data", "grey", *FAST),
    ("evaluate", "--weights", "run", "--data", "grey", *FAST),
    ("evaluate", "--model", "resnet_tiny", "--weights", "run/model.safetensors", "--data", "grey", *FAST),
    ("hidden", "run", "--images", "4"),
    ("summarise", "run"),
]


@pytest.mark.parametrize("words", EVALUATIONS, ids=" ".join)
def test_a_renamed_class_is_refused_by_name(words, run, easybn):
    rename("dog", "zoo")
    before = sorted(Path().rglob("*"))
    found = easybn(*words)
    assert found.status == 2
    assert "no output for the class 'zoo'; its 3 classes are 'cat', 'dog', 'emu'" in found.err
    assert found.err.count("\n") == 1
    assert [path for path in sorted(Path().rglob("*")) if path not in before and "cache" not in path.parts] in (
        [], [Path("run/.lock")]
    )  # fmt: skip


def test_a_class_more_and_another_spelling_are_refused(run, easybn):
    rename("dog", "Dog")
    assert "the class 'Dog' (did you mean 'dog'?)" in easybn("evaluate", "run", *FAST).err
    rename("Dog", "dog")
    shutil.copytree("grey/test/cat", "grey/test/fox")
    shutil.copytree("grey/train/cat", "grey/train/fox")
    assert "no output for the class 'fox'" in easybn("evaluate", "run", *FAST).err


def test_some_of_the_classes_keep_their_outputs(run, easybn):
    assert accuracy(easybn("evaluate", "run", *FAST), "run") == 1.0
    rename("cat", None)
    found = easybn("evaluate", "run", *FAST, "--seed", "1", "--points", "30")
    assert found.status == 0
    note = "labels are matched to the model's outputs by name; 2 of the model's 3 classes are here"
    assert f"note: {note}" in found.out
    assert "100.00" in found.out
    found = easybn("evaluate", "--weights", "run/model.safetensors", "--data", "grey", *FAST, "--out", "o")
    assert accuracy(found, "o") == 1.0
    rows = [json.loads(line) for line in Path("o/scores.jsonl").read_text().splitlines()]
    assert all(note in row["notes"] for row in rows)


def test_a_run_is_evaluated_on_pictures_of_the_size_that_it_knows(run, easybn):
    for path in Path("grey").rglob("*.png"):
        with Image.open(path) as image:
            image.resize((11, 11)).save(path)
    found = easybn("evaluate", "run", *FAST)
    assert found.status == 2
    assert "its images are 3 x 11 x 11 (channels, height, width)" in found.err
    words = ("evaluate", "--weights", "run/model.safetensors", "--data", "grey", *FAST)
    assert "was trained on 8 x 8: --resize 8" in easybn(*words).err
    assert accuracy(easybn(*words, "--resize", "8"), "runs/evaluations/model") == 1.0
    assert "takes 3: --channels 3" in easybn(*words, "--channels", "1", "--out", "o").err


@pytest.mark.parametrize("attacks", [FAST, ("--eps", "0.01", "--points", "6", "--steps", "1")], ids=["clean", "pgd"])
def test_the_outputs_of_ones_own_model_are_named_by_a_file(attacks, easybn):
    pictures(Path("two"), ["cat", "emu"], ["test"])
    Path("names.txt").write_text("emu\ncat\ndog\n")
    words = ("evaluate", "--model", "levels_of_grey:turned", "--data", "two", *attacks, "--out")
    assert accuracy(easybn(*words, "named", "--classes", "names.txt"), "named") == 1.0
    Path("names.txt").write_text("emu\ncat\ndog\nfox\n")
    found = easybn(*words, "o", "--classes", "names.txt")
    assert (found.status, Path("o").exists()) == (2, False)
    assert "the model has 3 outputs, and 4 classes by name" in found.err
    for text, told in (
        ("dog\ncat\nowl\n", "no output for the class 'emu'"),
        ("emu\ncat\ncat\n", "several outputs called 'cat'"),
        ("emu\n\ncat\n", "line 2 is empty"),
    ):
        Path("names.txt").write_text(text)
        found = easybn(*words, "o", "--classes", "names.txt")
        assert (found.status, Path("o").exists()) == (2, False)
        assert told in found.err
    assert "cannot be read" in easybn(*words, "o", "--classes", "nowhere.txt").err


def test_a_model_of_a_thousand_classes_on_a_few_of_them(easybn):
    pictures(Path("two"), ["cat", "emu"], ["val"])
    names = [f"class {i}" for i in range(256)]
    for name in LEVELS:  # around its level, for pictures are not quite of one grey
        for level in range(LEVELS[name] - 1, LEVELS[name] + 2):
            names[level] = name if level == LEVELS[name] else f"near {name} {level}"
    Path("names.txt").write_text("\n".join(names) + "\n")
    words = ("evaluate", "--model", "levels_of_grey:many", "--data", "two", "--out")
    assert accuracy(easybn(*words, "o", *FAST, "--classes", "names.txt"), "o") > 0.9
    found = easybn(*words, "other", *FAST)
    assert found.status == 2
    assert "the model has 256 outputs and two has 2 classes ('cat', 'emu'), and its answer for 100% of the" in found.err
    assert "--classes FILE" in found.err
    assert not Path("other").exists()


def test_pretrained_models_of_other_classes_need_their_names(easybn):
    """timm puts a new, random last layer where the number of classes is another."""
    pictures(Path("two"), ["cat", "emu"], ["val"])
    statistics = ("--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2", "--out", "o")
    words = ("evaluate", "--data", "two", *FAST, *statistics, "--model")
    for model, option in (("timm:resnet18", "{pretrained: true}"), ("torchvision:resnet18", "{weights: DEFAULT}")):
        found = easybn(*words, model, "--model_options", option)
        assert (found.status, Path("o").exists()) == (2, False)
        assert "--classes FILE, one per line" in found.err
    weights.save(build("resnet_tiny", 3), "three.safetensors")
    found = easybn(*words, "resnet_tiny", "--weights", "three.safetensors")
    assert (found.status, Path("o").exists()) == (2, False)
    assert "(made for 2 classes): if the model has other classes, name the class of each output" in found.err
    Path("names.txt").write_text("fox\nemu\ncat\n")
    found = easybn(*words, "resnet_tiny", "--weights", "three.safetensors", "--classes", "names.txt")
    assert found.status == 0, found.err
    assert "2 of the model's 3 classes are here" in found.out


def test_other_numbers_of_outputs_are_refused_or_told(easybn):
    pictures(Path("three"), list(LEVELS), ["test"])
    shutil.copytree("three/test/cat", "three/test/fox")
    found = easybn("evaluate", "--model", "levels_of_grey:three", "--data", "three", *FAST, "--out", "o")
    assert (found.status, Path("o").exists()) == (2, False)
    assert "the model has 3 outputs and three has 4 classes" in found.err
    for name in ("dog", "fox"):
        shutil.rmtree(f"three/test/{name}")
    found = easybn("evaluate", "--model", "levels_of_grey:three", "--data", "three", *FAST, "--out", "o")
    assert accuracy(found, "o") == 0.5
    assert "note: the model has 3 outputs and three has 2 classes ('cat', 'emu'): the first 2 outputs" in found.out
    assert "50% of the test images is none of them" in Path("o/scores.jsonl").read_text()


def test_a_number_of_classes_among_the_models_options_is_checked(easybn):
    found = easybn("train", "--model_options", "{num_classes: 7}", "--out", "r")
    assert (found.status, Path("r").exists()) == (2, False)
    assert "the model has 7 outputs and sample has 10 classes" in found.err


def test_a_training_does_not_go_on_with_other_classes(run, easybn):
    for name in ("model.safetensors", "README.md", "scores.jsonl"):
        Path("run", name).unlink(missing_ok=True)
    rename("dog", "zoo")
    words = ("train", "--data", str(Path("grey").resolve()), "--validation", "0.0", "--epochs", "8")
    found = easybn(*words, "--batch_size", "30", "--lr", "0.1", "--out", "run", "--device", "cpu")
    assert found.status == 2
    assert "the data set has changed since this training began" in found.err
    assert "['cat', 'dog', 'emu'] -> ['cat', 'emu', 'zoo']" in found.err
    assert not Path("run/model.safetensors").exists()


def test_options_of_a_folder_are_kept_with_the_run(easybn):
    pictures(Path("flat"), list(LEVELS), [""])
    found = easybn("train", "--data", "flat", "--epochs", "1")
    assert (found.status, Path("runs").exists()) == (2, False)
    assert "flat: has only test images, nothing to train on" in found.err
    options = ("--test_fraction", "0.25", "--resize", "6", "--channels", "1")
    assert easybn("train", "--data", "flat", "--epochs", "1", *options, "--out", "r", "--device", "cpu").status == 0
    config = Run(Path("r")).config
    assert (config["resize"], config["channels"], config["test_fraction"]) == (6, 1, 0.25)
    assert weights.trained_on("r").shape == (1, 6, 6)
    assert easybn("evaluate", "r", *FAST).status == 0
    assert Run(Path("r")).scores[0]["n"] == 9
    found = easybn("train", "--data", "flat", "--epochs", "1", *options[:4], "--out", "r")
    assert "holds another run (channels: 1 -> None)" in found.err


@pytest.mark.parametrize("split", ["test", "val", ""])
def test_test_images_alone_are_enough_to_evaluate(split, easybn):
    pictures(Path("mine"), list(LEVELS), [split])
    words = ("evaluate", "--model", "levels_of_grey:three", "--data", "mine")
    assert accuracy(easybn(*words, *FAST, "--out", "o"), "o") == 1.0
    found = easybn("evaluate", "--model", "resnet_tiny", "--data", "mine", "--out", "p")
    assert (found.status, Path("p").exists()) == (2, False)
    assert "mine has no training images to normalise by: give --mean and --std" in found.err


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--data", "nosuch", "--out", "r"),
        ("train", "--model", "nosuch", "--out", "r"),
        ("evaluate", "--model", "levels_of_grey:nosuch", "--data", "sample", "--out", "r"),
        ("evaluate", "--model", "levels_of_grey:three", "--data", "nosuch", "--out", "r"),
        ("evaluate", "--model", "levels_of_grey:three", "--data", "./nosuch", "--out", "r", *FAST),
        ("hidden", "--model", "levels_of_grey:three", "--data", "nosuch", "--out", "r"),
        ("stacked", "--data", "nosuch", "--out", "r"),
        ("stacked", "--model", "nosuch", "--out", "r"),
    ],
    ids=" ".join,
)
def test_a_mistake_in_a_name_leaves_no_folder(words, easybn):
    found = easybn(*words)
    assert found.status == 2
    assert "nosuch" in found.err
    assert not Path("r").exists()


def test_matching_a_source_by_hand():
    labels, images = torch.tensor([0, 1, 2]), torch.arange(3 * 27, dtype=torch.uint8).reshape(3, 3, 3, 3)
    from easybn.data import Source

    source = Source.from_tensors(images, labels, images, labels, classes=("caf\u00e9", "b", "a"))
    matched = source.matched(("a", "x", "cafe\u0301", "b"), "it", "mend it")
    assert matched.test.labels.tolist() == [2, 3, 0]
    assert matched.classes == ("a", "x", "cafe\u0301", "b")
    assert source.matched(source.classes, "it", "mend it") is source
    assert load("sample").matched(load("sample").classes, "it", "mend it").notes == ()
