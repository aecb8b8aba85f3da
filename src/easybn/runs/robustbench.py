"""A trained model as a folder for RobustBench: ``robustbench.load_model`` and ``benchmark`` work on it as it is.

RobustBench (Croce et al., 2021) finds a model by name in a table, builds it, and loads a state dict whose names it may
change: where a name contains "module." or "model.", as many letters are cut off its beginning. So names must contain
neither; those of the exported networks do not. The table's entry is made by a file of the folder, in the user's
process; RobustBench's package is not touched, and not needed for the export.
"""

import hashlib
import inspect
import io
import json
import re
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..data.image_folder import CIFAR10_CLASSES
from ..files import new_folder, replacing, write_text
from ..models import resnet, weights
from ..models.registry import BUILT_IN, Normalise
from ..models.weights import TrainedOn
from .export import BATCHES, largest_difference, random_images
from .robustbench_claim import DATASETS, EPS, Entry, Figure, figures, issue, model_info
from .run import Run


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        entry: of the model.
        difference: the largest one between logits of the model and of the exported one.
        clean, robust: its accuracies, as far as they were measured.
    """

    entry: Entry
    difference: float
    clean: Figure
    robust: Figure


def export_to_robustbench(
    source: Path | str,
    folder: Path | str,
    name: str | None = None,
    threat_model: str = "Linf",
    eps: float | None = None,
) -> Exported:
    """Write the model of ``source``, with what RobustBench needs to know of it, into a new folder.

    ========================================== ========================================================
    architecture.py                            the network, plain torch: ``make()`` returns it
    register.py                                ``register()`` adds it to RobustBench's table
    models/DATASET/THREAT_MODEL/NAME.pt        its state dict
    model_info/DATASET/THREAT_MODEL/NAME.json  what the leaderboard shows of it
    new_model.md                               the text of an issue that submits it
    ========================================== ========================================================

    Args:
        source: a run's folder, or a weights file.
        folder: must not exist yet.
        name: in RobustBench's table; by default of recipe and network.
        threat_model: one of ``THREAT_MODELS``.
        eps: radius in [0, 1] pixel units; by default the leaderboard's, 8/255 or 0.5.

    Raises:
        ValueError: the folder exists; the model is not one of the package's networks, or not one for CIFAR-10 or
            CIFAR-100; or the exported model disagrees with it. Then nothing is written.
        FileNotFoundError: no such model.
    """
    folder, description = Path(folder), weights.described(source)
    if folder.exists():
        raise ValueError(f"{folder} exists already: give another folder")
    if (network := description["name"]) not in BUILT_IN:
        raise ValueError(
            f"{source} is a {network}: a folder for RobustBench is made of {', '.join(BUILT_IN)} only, since the model "
            "file has to be complete"
        )
    about, dataset = _trained_on(source)
    run = Run(weights.file_of(source).parent)
    of_run = (run.folder / "config.json").exists()
    recipe = run.config["recipe"]["class"] if of_run else weights.file_of(source).stem
    radius = EPS.get(threat_model) if eps is None else float(eps)
    entry = Entry(name or re.sub(r"[^A-Za-z0-9_-]", "-", f"{recipe}_{network}"), dataset, threat_model, radius)
    itself = dataset == about.name == (run.config["data"] if of_run else about.name)
    clean, robust = figures(run.scores if of_run else [], entry, itself)
    model = weights.load(source)
    code = architecture(model, network)
    with new_folder(folder) as part:
        content = _state(model)
        for place, text in {
            "architecture.py": code,
            "register.py": REGISTER.format(**_fields(entry)),
            f"model_info/{entry.place}.json": json.dumps(model_info(entry, network, itself, clean, robust), indent=2),
            "new_model.md": issue(
                entry, network, model, itself, about.name, clean, robust, hashlib.sha256(content).hexdigest()
            ),
        }.items():
            write_text(part / place, f"{text.rstrip()}\n")
        with replacing(part / "models" / f"{entry.place}.pt") as file:
            file.write(content)
        exported = _made_by(code)
        exported.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        difference = largest_difference(model, exported.eval(), [random_images(n, about.shape) for n in BATCHES])
    return Exported(entry, difference, clean, robust)


def _trained_on(source: Path | str) -> tuple[TrainedOn, str]:
    """What the model was trained on, and RobustBench's name of the data set that it is for."""
    known = f"RobustBench's small images are those of {' and '.join(DATASETS.values())}"
    about = weights.trained_on(source)
    if about is None:
        raise ValueError(f"{source} does not say what it was trained on: {known}")
    if about.shape == (3, 32, 32):
        if about.name in DATASETS:
            return about, about.name
        if tuple(name.lower() for name in about.classes) == CIFAR10_CLASSES:  # the same images in other files
            return about, "cifar10"
    shape = " x ".join(map(str, about.shape))
    raise ValueError(f"{source} was trained on {about.name}, {len(about.classes):,} classes of {shape}: {known}")


def _state(model: nn.Module) -> bytes:
    """The state dict as ``torch.save`` writes it, of tensors alone, which ``torch.load`` reads without unpickling."""
    buffer = io.BytesIO()
    state = OrderedDict((name, value.detach().contiguous().clone()) for name, value in model.state_dict().items())
    torch.save(state, buffer)
    return buffer.getvalue()


def _made_by(code: str) -> nn.Module:
    """What ``make()`` of a model file returns."""
    namespace: dict[str, Any] = {"__name__": "architecture"}
    exec(compile(code, "architecture.py", "exec"), namespace)
    model: nn.Module = namespace["make"]()
    return model


# The model file: the very sources of the network, with torch's own convolutions in the place of our faster ones.

_ARCHITECTURE = '''\
"""A classifier of images (N, C, H, W) in [0, 1], which it normalises itself. It needs torch and nothing else.

Written by easybn {version}, from whose source these classes are (MIT licence).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


{classes}


def make() -> nn.Module:
    """The network, without its weights."""
    normalise = Normalise(
        {mean},
        {std},
    )
    return nn.Sequential(OrderedDict(normalise=normalise, network={network}({classes_and_channels})))
'''

_CONV3X3 = """\
def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
"""


def architecture(model: nn.Module, network: str) -> str:
    """The text of a Python file whose ``make()`` returns ``model``, with other weights.

    Args:
        model: of :func:`easybn.models.build`.
        network: which of ``BUILT_IN`` it is.
    """
    parts = (resnet.shortcut, resnet.BasicBlock, resnet.Bottleneck, resnet.ResNet, BUILT_IN[network])
    sources = [inspect.getsource(Normalise), _CONV3X3, *(inspect.getsource(part) for part in parts)]
    normalise, linear = model.get_submodule("normalise"), model.get_submodule("network.linear")
    mean, std = (getattr(normalise, name).flatten().tolist() for name in ("mean", "std"))
    return _ARCHITECTURE.format(
        version=__version__,
        classes="\n\n".join(source for source in sources).replace("Stem(", "nn.Conv2d(").rstrip(),
        mean=mean,
        std=std,
        network=network,
        classes_and_channels=f"{linear.out_features}, {len(mean)}",
    )


REGISTER = '''\
"""Adds {name} to RobustBench's table of models, in this process:

    import sys
    sys.path.insert(0, ...)  # the folder of this file
    import register
    from robustbench import benchmark, load_model

    register.register()
    model = load_model(register.NAME, register.MODELS, register.DATASET, register.THREAT_MODEL)
    benchmark(model, dataset=register.DATASET, threat_model=register.THREAT_MODEL, eps=register.EPS, data_dir=...)

With to_disk=True and model_name=register.NAME, in this folder, the figures are put into model_info.
"""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
MODELS = FOLDER / "models"
NAME = "{name}"
DATASET = "{dataset}"
THREAT_MODEL = "{threat_model}"
EPS = {eps}


def make():
    """The network, without its weights."""
    spec = importlib.util.spec_from_file_location("architecture_of_{identifier}", FOLDER / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make()


def register():
    """Add the model; ValueError if RobustBench has another one of this name."""
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    models = model_dicts[BenchmarkDataset(DATASET)][ThreatModel(THREAT_MODEL)]
    known = models.get(NAME)
    if known is not None and known.get("folder") != FOLDER:
        raise ValueError(f"RobustBench has a model {{NAME}} already: export with another --name")
    # an id of a download has to be there; the weights are in MODELS, so that it is not used
    models[NAME] = {{"model": make, "gdrive_id": "none", "folder": FOLDER}}
'''


def _fields(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "identifier": entry.name.replace("-", "_")}
