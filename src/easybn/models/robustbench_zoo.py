"""A model of RobustBench's zoo whose weights are on this disk: ``robustbench:NAME``. Nothing is ever downloaded.

The package is the extra ``robustbench``. Its own loader is used, as each model has its peculiarities; its weights files
are read without unpickling, whatever the environment says.
"""

import difflib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from .checkpoint_files import tensors_only

LIBRARY = "robustbench"
INSTALL = "pip install 'easybn[robustbench]'"
DATASET = "cifar10"
MODELS = "models"
"""RobustBench's folder of weights, unless another is named."""
OPTIONS = ("dataset", "threat_model", "model_dir")
"""Of :func:`load_zoo_model`, beside the name."""


def load_zoo_model(name: str, dataset: str = DATASET, threat_model: str = "Linf", model_dir: str = MODELS) -> nn.Module:
    """The model that ``robustbench.load_model`` returns, from images in [0, 1] to logits, in eval mode, on the CPU.

    Args:
        name: in RobustBench's table for ``dataset`` and ``threat_model``.
        dataset: cifar10, cifar100 or imagenet.
        threat_model: Linf, L2, corruptions or corruptions_3d.
        model_dir: folder of the weights, which are in model_dir/DATASET/THREAT_MODEL/NAME.pt.

    Raises:
        ValueError: the package is missing, there is no such model, its weights are not there, or cannot be loaded.
    """
    zoo = _robustbench()
    table = _table(zoo, name, dataset, threat_model)
    place = Path(model_dir) / dataset / threat_model.removesuffix("_3d")
    known = table.get(name)
    if known is None:
        near = difflib.get_close_matches(name, table, n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ValueError(f"RobustBench has no model {name!r} for {dataset} and {threat_model}{hint}")
    ids = known["gdrive_id"]
    timm_name = f"{name.lower().replace('-', '_')}_{dataset}_{threat_model.removesuffix('_3d').lower()}"
    if ids is None or zoo.timm.is_model(timm_name) or (dataset == "imagenet" and "Standard" in name):
        raise ValueError(f"robustbench:{name} has its weights from timm or torchvision, which would download them")
    parts = [f".pt_m{i}.pt" for i in range(len(ids))] if isinstance(ids, list) else [".pt"]
    files = [place / f"{name}{part}" for part in parts]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"robustbench:{name}: its weights are not at {file}, and nothing is downloaded here: put them there "
                f"(robustbench.load_model downloads them), or name the folder above {dataset}/: --model_options "
                "'{model_dir: FOLDER}'"
            )
    with tensors_only(), warnings.catch_warnings(action="ignore"):
        try:
            model: nn.Module = zoo.load_model(name, model_dir=model_dir, dataset=dataset, threat_model=threat_model)
        except Exception as error:  # whatever torch and RobustBench raise for a file that does not fit
            reason = str(error).strip().split("\n")
            what = "it holds more than tensors" if "weights_only" in str(error) else reason[-1].strip()
            raise ValueError(
                f"robustbench:{name}: {files[0]} cannot be loaded: {what or type(error).__name__}"
            ) from error
    return model.eval()


def _table(zoo: Any, name: str, dataset: str, threat_model: str) -> dict[str, Any]:
    """RobustBench's models for a data set and a threat model, by name."""
    for option, value, kind in (
        ("dataset", dataset, zoo.BenchmarkDataset),
        ("threat_model", threat_model, zoo.ThreatModel),
    ):
        known = [each.value for each in kind]
        if value not in known:
            raise ValueError(f"robustbench:{name}: {option} must be one of {', '.join(known)}, got {value!r}")
    of_dataset = zoo.all_models[zoo.BenchmarkDataset(dataset)]
    threat = zoo.ThreatModel(threat_model.removesuffix("_3d"))
    if threat not in of_dataset:
        raise ValueError(f"robustbench:{name}: RobustBench has no models for {dataset} and {threat_model}")
    table: dict[str, Any] = of_dataset[threat]
    return table


def _robustbench() -> Any:
    """The module ``robustbench.utils``; ValueError if the package is missing or cannot be imported."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise ValueError(f"robustbench:NAME needs the package robustbench: {INSTALL}")
    with _benchmark_left_out(), warnings.catch_warnings(action="ignore"):
        try:
            return importlib.import_module("robustbench.utils")
        except ImportError as error:
            raise ValueError(f"the package robustbench cannot be imported ({error}): {INSTALL}") from error


class _NotInstalled:
    """In the place of what only RobustBench's benchmark uses."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise ImportError(
            "robustbench.benchmark needs AutoAttack: pip install git+https://github.com/fra31/auto-attack"
        )


@contextmanager
def _benchmark_left_out() -> Iterator[None]:
    """Inside the block, the package can be imported without AutoAttack and without pkg_resources.

    RobustBench 1.1.1 imports both with its benchmark, which is not used here. It declares neither: the registry has
    AutoAttack under another name only, and setuptools has no pkg_resources from version 82 on.
    """
    stand_ins = {name: ModuleType(name) for name in ("autoattack", "autoattack.state", "pkg_resources")}
    for name, attribute in (("autoattack", "AutoAttack"), ("autoattack.state", "EvaluationState")):
        setattr(stand_ins[name], attribute, _NotInstalled)
    packages = {name: name.partition(".")[0] for name in stand_ins}
    there = {name for name in packages.values() if name in sys.modules or importlib.util.find_spec(name) is not None}
    missing = {name: module for name, module in stand_ins.items() if packages[name] not in there}
    sys.modules.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
