"""A package in the place of RobustBench, whose loader does what the one of version 1.1.1 does, by its source.

Like the real one it imports AutoAttack and pkg_resources, which its metadata does not bring. Tests of the real package
are in test_package.py.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = {
    "__init__.py": """
from .loaders import images
from .utils import load_model
from .eval import benchmark
""",
    "loaders.py": """
import pkg_resources
images = None
""",
    "eval.py": """
from autoattack import AutoAttack
from autoattack.state import EvaluationState
benchmark = AutoAttack
""",
    "model_zoo/__init__.py": """
from .enums import BenchmarkDataset, ThreatModel

def _no_model():
    raise AssertionError("built")

model_dicts = {dataset: {threat: {} for threat in ThreatModel if threat.value != "corruptions_3d"}
               for dataset in BenchmarkDataset}
model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf].update(
    Rice2020Overfitting={"model": _no_model, "gdrive_id": "1"},
    Both2020={"model": _no_model, "gdrive_id": ["1", "2"]},
    Cached2020={"model": _no_model, "gdrive_id": None},
)
model_dicts[BenchmarkDataset.cifar_10][ThreatModel.Linf]["Timm2020-S"] = {"model": _no_model, "gdrive_id": "1"}
del model_dicts[BenchmarkDataset.cifar_100][ThreatModel.L2]
""",
    "model_zoo/enums.py": """
from enum import Enum

class BenchmarkDataset(Enum):
    cifar_10 = "cifar10"
    cifar_100 = "cifar100"
    imagenet = "imagenet"

class ThreatModel(Enum):
    Linf = "Linf"
    L2 = "L2"
    corruptions = "corruptions"
    corruptions_3d = "corruptions_3d"
""",
    "utils.py": """
from pathlib import Path
from types import SimpleNamespace
import torch
from .model_zoo import model_dicts as all_models
from .model_zoo.enums import BenchmarkDataset, ThreatModel

timm = SimpleNamespace(is_model=lambda name: name == "timm2020_s_cifar10_linf")

def rm_substr_from_state_dict(state_dict, substr):
    return {key[len(substr):] if substr in key else key: value for key, value in state_dict.items()}

def load_model(model_name, model_dir="./models", dataset="cifar10", threat_model="Linf"):
    dataset, threat_model = BenchmarkDataset(dataset), ThreatModel(threat_model.replace("_3d", ""))
    path = Path(model_dir) / dataset.value / threat_model.value / f"{model_name}.pt"
    entry = all_models[dataset][threat_model][model_name]
    if entry["gdrive_id"] is None:
        raise ValueError("no gdrive_id")
    model = entry["model"]()
    if not path.is_file():
        raise AssertionError("downloads")
    checkpoint = torch.load(path, map_location=torch.device("cpu"))
    try:
        state_dict = rm_substr_from_state_dict(checkpoint["state_dict"], "module.")
    except Exception:
        state_dict = rm_substr_from_state_dict(checkpoint, "module.")
    model.load_state_dict(rm_substr_from_state_dict(state_dict, "model."), strict=True)
    return model.eval()
""",
}


@contextmanager
def installed(folder: Path, with_benchmark: bool = False) -> Iterator[None]:
    """Inside the block the package can be imported; it is written below ``folder``.

    Args:
        with_benchmark: whether AutoAttack and pkg_resources are there too.
    """
    for name, text in FILES.items():
        path = folder / "robustbench" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if with_benchmark:
        (folder / "autoattack").mkdir()
        (folder / "autoattack/__init__.py").write_text("AutoAttack = None\n")
        (folder / "autoattack/state.py").write_text("EvaluationState = None\n")
        (folder / "pkg_resources.py").write_text("")
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("robustbench", "autoattack", "pkg_resources"):
                del sys.modules[name]
