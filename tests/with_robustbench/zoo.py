"""Run with the real package: ``python -P zoo.py FOLDER WORK``: easybn evaluates models of RobustBench's table.

WORK has images.npz. A network of RobustBench's own gets random weights on disk, since nothing is downloaded.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch

from easybn.cli.main import main as easybn
from easybn.models.robustbench_zoo import load_zoo_model
from easybn.runs.run import Run

NAME = "Rade2021Helper_R18_extra"
DATA = """
import numpy as np, torch
given = np.load("images.npz")
def images():
    both = torch.from_numpy(given["x"]), torch.from_numpy(given["y"])
    return both, both
"""
warnings.simplefilter("ignore")


def correct(name: str, model_dir: str) -> int:
    """Of how many images easybn evaluate says that the model is right."""
    options = json.dumps({"model_dir": model_dir})
    words = ["--data", "my_images.py:images", "--attacks", "clean", "--points", "64", "--out", name]
    assert easybn(["evaluate", "--model", f"robustbench:{name}", "--model_options", options, *words]) == 0
    (row,) = Run(Path(name)).scores
    return int(row["correct"])


def main(exported: Path, work: Path) -> None:
    os.chdir(work)
    Path("my_images.py").write_text(DATA)
    missing = ""
    try:
        load_zoo_model(NAME)
    except ValueError as error:
        missing = str(error)
    sys.path.insert(0, str(exported))
    import register
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    network = model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf][NAME]["model"]().eval()
    file = Path(f"models/cifar10/Linf/{NAME}.pt")
    file.parent.mkdir(parents=True)
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, file)
    loaded = load_zoo_model(NAME)
    namespace: dict = {}
    exec(DATA, namespace)
    x, y = namespace["images"]()[1]
    with torch.no_grad():
        logits, same = network(x / 255), bool(torch.equal(network(x / 255), loaded(x / 255)))
    register.register()
    found = {"exported": correct(register.NAME, str(register.MODELS)), "zoo": correct(NAME, "models")}
    by_hand = int((logits.argmax(1) == y).sum())
    print(json.dumps({"missing": missing, "same": same, "correct": found, "by_hand": by_hand}))


if __name__ == "__main__":
    main(*(Path(word).resolve() for word in sys.argv[1:]))
