"""The real RobustBench 1.1.1 on what easybn exports, and easybn on RobustBench's models: in an environment of its own.

``make .venv-robustbench/installed`` makes it; ``make test-all`` does.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from easybn import models
from easybn.data import Source
from easybn.data.image_folder import CIFAR10_CLASSES
from easybn.evaluation import Evaluation
from easybn.evaluation.config import EvaluateConfig
from easybn.recipes import Vanilla
from easybn.runs.config import Experiment
from easybn.runs.evaluate import evaluate_run
from easybn.runs.robustbench import export_to_robustbench
from easybn.runs.run import train
from easybn.runs.target import EvaluationTarget
from easybn.train.schedule import Training

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = ROOT / ".venv-robustbench/bin/python"
EPS = 7 / 255  # at which some of the points below are broken and some are not
NEAR = 0.02  # points broken between (1 - NEAR) EPS and (1 + NEAR) EPS are left to chance: attacks start at random

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no RobustBench: make .venv-robustbench/installed"),
]


def with_robustbench(*words: object) -> str:
    """What Python in RobustBench's environment prints, with this source tree."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([PYTHON, *map(str, words)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_images(folder: Path) -> None:
    """Noisy copies of a pattern for each class, of many contrasts, so that points differ in their robustness."""
    draw = np.random.default_rng(0)
    patterns = draw.uniform(-1, 1, (10, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    for split, count in (("train", 600), ("test", 64)):
        for number in range(count):
            label = number % 10
            image = 0.5 + 0.25 * draw.uniform(0.2, 1) * patterns[label] + 0.1 * draw.normal(size=(32, 32, 3))
            path = folder / split / CIFAR10_CLASSES[label] / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 * image.clip(0, 1)).round().astype(np.uint8)).save(path)


@dataclass
class Both:
    """What both found: our evaluation at radii around ``EPS``, what benchmark.py stored and printed, and the export."""

    ours: Evaluation
    theirs: dict[str, np.ndarray]
    printed: str
    model: nn.Module
    source: Source
    folder: Path
    name: str


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustbench")
    write_images(folder / "images")
    training = Training(epochs=5, batch_size=50, lr=0.05)
    run = train(
        Experiment(recipe=Vanilla(), data=str(folder / "images"), validation=0, training=training),
        folder / "run",
        device="cpu",
    )
    radii = ((1 - NEAR) * EPS, EPS, (1 + NEAR) * EPS)
    config = EvaluateConfig.of_run(["autoattack"], norm="linf", eps=radii, points=64, keep_images=True)
    target = EvaluationTarget.of_run(run)
    ours = evaluate_run(target, config).evaluation
    exported = export_to_robustbench(run.folder, folder / "out", "Doe2026Easy", eps=EPS)
    x, y = target.source.test.batch(ours.points)
    pixels = (x * 255).round().byte().numpy()
    np.savez(folder / "images.npz", pixels=pixels, labels=y.numpy(), attacked=ours.images_at[EPS].numpy())
    printed = with_robustbench(HERE / "benchmark.py", folder / "out", folder / "images.npz", folder / "theirs.npz")
    theirs = dict(np.load(folder / "theirs.npz"))
    return Both(ours, theirs, printed, models.load(run.folder), target.source, folder, exported.entry.name)


def test_clean_verdicts_are_the_same_point_for_point(both):
    assert both.theirs["clean"].tolist() == both.ours.clean.tolist()
    assert float(both.theirs["clean_accuracy"]) == pytest.approx(both.ours.clean_accuracy, abs=1e-6)


def test_robust_verdicts_are_the_same_where_chance_does_not_decide(both):
    least, at, most = (robust.numpy() for robust in both.ours.robust_at.values())
    decided = least == most
    differ = {
        int(point): (bool(at[point]), bool(both.theirs["robust"][point]))
        for point in (both.theirs["robust"] != at).nonzero()[0]
    }
    assert both.theirs["robust"][decided].tolist() == at[decided].tolist(), f"point: (ours, theirs): {differ}"
    # the test says something: of both kinds there are some, and few are left to chance
    assert min(most.sum(), (both.ours.clean.numpy() & ~least).sum()) >= 8
    assert (~decided).sum() <= 8
    assert float(both.theirs["robust_accuracy"]) == pytest.approx(both.theirs["robust"].mean(), abs=1e-6)


def test_each_models_adversarial_images_break_the_other(both):
    assert both.theirs["stands_ours"].tolist() == both.ours.robust_at[EPS].tolist()
    attacked = torch.from_numpy(both.theirs["attacked"])
    x, y = both.source.test.batch(both.ours.points)
    assert float((attacked - x).abs().max()) <= EPS + 1e-6
    with torch.no_grad():
        assert (both.model(attacked).argmax(1) == y).tolist() == both.theirs["robust"].tolist()


def test_the_model_info_is_what_robustbench_reads_and_completes(both):
    info = json.loads((both.folder / f"out/model_info/cifar10/Linf/{both.name}.json").read_text())
    clean, robust = (f"{100 * float(both.theirs[name]):.2f}" for name in ("clean_accuracy", "robust_accuracy"))
    assert (float(info["clean_acc"]), float(info["autoattack_acc"])) == (float(clean), float(robust))
    # list_available_models reads the folder of the working folder
    (line,) = [line for line in both.printed.splitlines() if f"**{both.name}**" in line]
    assert f"<sub>{float(clean):.2f}%</sub> | <sub>{float(robust):.2f}%</sub> | <sub>resnet_tiny</sub>" in line


def test_easybn_evaluates_robustbenchs_own_models_and_the_exported_one(both, tmp_path):
    """Without AutoAttack under the name that RobustBench imports, as the registry leaves it (-P: not this folder's)."""
    x, y = both.source.test.batch(both.ours.points)
    np.savez(tmp_path / "images.npz", x=(x * 255).round().byte().numpy(), y=y.numpy())
    told: dict[str, Any] = json.loads(
        with_robustbench("-P", HERE / "zoo.py", both.folder / "out", tmp_path).splitlines()[-1]
    )
    assert "its weights are not at" in told["missing"]
    assert told["same"] is True
    assert told["correct"] == {"exported": int(both.ours.clean.sum()), "zoo": told["by_hand"]}
