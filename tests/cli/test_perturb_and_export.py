import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from easybn import data, models
from easybn.cli.trained import png
from easybn.runs.config import Experiment
from easybn.runs.run import train
from easybn.train.schedule import Training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run, and test image 0 of the sample as a.png."""
    folder = tmp_path_factory.mktemp("run")
    train(Experiment(train_images=400, training=Training(epochs=2, batch_size=20, lr=0.05)), folder / "r", device="cpu")
    x, _ = data.load("sample").test.batch(torch.tensor([0]))
    (folder / "a.png").write_bytes(png(x[0]))
    return folder


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_three_pictures_and_what_the_model_says(folder, easybn):
    words = ["perturb", str(folder / "a.png"), "--model", str(folder / "r"), "--out", "o"]
    found = easybn(*words, "--goal", "targeted", "--target", "bag", "--label", "9", "--eps", "8/255")
    assert found.status == 0, found.err
    original, perturbed, difference = (pixels(f"o/{name}.png") for name in ("original", "perturbed", "difference"))
    assert (original == pixels(folder / "a.png")).all()
    assert 0 < abs(perturbed - original).max() <= 8
    assert abs(difference - 127.5 - 15 * (perturbed - original)).max() <= 8.5  # 15: of 8/255 to 1/2
    assert "15 times amplified" in found.out
    assert "image: as it is; 1 x 28 x 28" in found.out
    model = models.load(folder / "r")
    for image in (original, perturbed):
        confidence = float(model(torch.tensor(image)[None, None] / 255).softmax(1)[0, 8].detach())
        told = [float(number) for number in re.findall(r"(\d+\.\d\d)%", found.out)]
        assert any(abs(number - 100 * confidence) < 0.0051 for number in told)  # half a unit of the last decimal
    assert "Bag" in found.out


def test_the_label_is_the_models_own_if_none_is_given(folder, easybn):
    words = ["perturb", str(folder / "a.png"), "--model", str(folder / "r/model.safetensors"), "--out", "o"]
    found = easybn(*words, "--norm", "l2", "--goal", "easy", "--steps", "2")
    assert found.status == 0, found.err
    x = torch.tensor(pixels(folder / "a.png"))[None, None] / 255
    name = data.load("sample").classes[int(models.load(folder / "r")(x).argmax())]
    assert f"taking the model's own prediction, {name}" in found.out
    assert "of at most 0.50000" in found.out


def test_a_weights_file_without_names(folder, easybn):
    description = {"name": "resnet_tiny", "num_classes": 3, "in_channels": 3}
    models.save(models.build(**description), "old.safetensors", description)
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save("b.png")
    found = easybn("perturb", "b.png", "--model", "old.safetensors", "--label", "2", "--out", "o")
    assert found.status == 0, found.err
    assert "does not say the size and classes" in found.out
    assert pixels("o/perturbed.png").shape == (20, 24, 3)


def test_exports(folder, easybn):
    for form in ("safetensors", "torch"):
        found = easybn("export", str(folder / "r"), "--format", form, "--out", f"m.{form}")
        assert found.status == 0, found.err
        assert f"written: m.{form}; largest difference of a logit, batches of 1 and 7 images: " in found.out
    assert models.load("m.safetensors")(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("perturb {a} --model {r} --out o --target bag", "--goal targeted and --target CLASS go together"),
        ("perturb {a} --model {r} --out o --goal targeted", "--goal targeted and --target CLASS go together"),
        ("perturb {a} --model {r} --out o --goal targeted --target bga", "(did you mean Bag?)"),
        ("perturb {a} --model {r} --out o --label 10", "--label: no class '10'"),
        ("perturb {a} --model {r} --out o --eps 8", "is it in units of /255?"),
        ("perturb {a} --model {r} --out o --eps 0", "eps must be a positive number"),
        ("perturb {a} --model {r} --out o --steps 0", "steps must be at least 1"),
        ("perturb none.png --model {r} --out o", "No such file"),
        ("perturb {r}/config.json --model {r} --out o", "is no readable image"),
        ("perturb {a} --model nowhere --out o", "no weights at nowhere"),
        ("perturb {a} --out o", "are required: model"),
        ("export nowhere --format torch --out o", "no weights at nowhere"),
        ("export {r} --format tensor --out o", "tensor"),
        ("export {a} --format torch --out o", "is no safetensors file"),
        ("export {r} --format torch", "--format FORMAT and --out FILE, or --robustbench DIR"),
        ("export {r}", "--format FORMAT and --out FILE, or --robustbench DIR"),
        ("export {r} --robustbench o", "was trained on sample, 10 classes of 1 x 28 x 28"),
        ("export {r} --robustbench o --format torch", "--format does not go with --robustbench DIR"),
        ("export {r} --robustbench o --out m", "--out does not go with --robustbench DIR"),
        ("export {r} --format torch --out o --name a", "--name goes with --robustbench DIR"),
        ("export {r} --robustbench o --threat_model linf", "linf"),
    ],
)
def test_mistakes(words, told, folder, easybn):
    found = easybn(*words.format(a=folder / "a.png", r=folder / "r").split())
    assert found.status == 2
    assert told in found.err
    assert found.err.count("\n") == 1
    assert found.err.startswith("easybn")
    assert not Path("o").exists()
