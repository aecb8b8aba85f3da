"""A trained model for others: its card, and its export to safetensors, torch.export and ONNX.

An exported file is kept only if its outputs agree with the model's.
"""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import licence
from ..files import replacing
from ..keyed_random import Noise
from ..models import weights
from ..models.exported import OnnxModel
from ..models.weights import TrainedOn
from .config import Experiment
from .description import describe

# The model card: a README.md beside the weights that says what the model is and how it was trained.

LOAD = """\
```python
import easybn

model = easybn.load("model.safetensors")  # or the folder; in eval mode, on the CPU
logits = model(x)  # x: float32 of shape (N, {c}, {h}, {w}) in [0, 1]; the model normalises inside
```
"""


def card(
    experiment: Experiment,
    data: TrainedOn,
    model: nn.Module,
    metrics: Sequence[dict[str, Any]],
    sessions: Sequence[dict[str, Any]],
) -> str:
    """The card as Markdown.

    Args:
        data: what the model was trained on.
        model: the plain model to deploy.
        metrics: rows of metrics.jsonl.
        sessions: the environments it was trained in, the last one last.
    """
    recipe = type(experiment.recipe).__name__
    last = metrics[-1] if metrics else {}
    parameters = sum(p.numel() for p in model.parameters())
    about = {
        "model": f"{experiment.model}, {parameters:,} parameters",
        "input": f"{' x '.join(map(str, data.shape))} (channels, height, width) in [0, 1]",
        "data": data.name + (f", {n:,} of its training images" if (n := experiment.train_images) else ""),
        **({"left out": f"the images in `{experiment.leave_out}`"} if experiment.leave_out else {}),
        "classes": f"{len(data.classes)}: {', '.join(data.classes)}",
        "recipe": recipe,
        "branches": f"{', '.join(experiment.recipe.branches)}; deployed: {experiment.recipe.branches[0]}",
        "digest": f"`{experiment.digest}` over all settings",
    }
    parts = [
        f"# {experiment.model} on {data.name} by {recipe}",
        "An image classifier trained with easybn.",
        _table(about),
        "## Use",
        LOAD.format(**dict(zip("chw", data.shape, strict=True))).strip(),
        "## Scores on held-out training images",
        _scores(last, experiment.validation),
        "## Recipe",
        _table(_flat(describe(experiment.recipe))),
        "## Training",
        _table(_flat(describe(experiment.training) | {"validation": experiment.validation})),
        "## Environment",
        _table(_environment(sessions, last)),
        "## Licence",
        "The code that trained this model is under the MIT licence; the data set has its own terms. "
        + (licence(data.name) or "Check them before you share the weights."),
    ]
    return "\n\n".join(parts) + "\n"


def _scores(last: dict[str, Any], validation: float) -> str:
    if not last.get("val"):
        return "No image was held out."
    rows = {name: f"accuracy {s['accuracy']:.2%}, loss {s['loss']:.4f}" for name, s in last["val"].items()}
    note = f"A share of {validation:g} of the training images, after epoch {last['epoch']}. "
    note += "Scores on the test split are in scores.jsonl once `easybn evaluate` has run."
    return f"{_table(rows)}\n\n{note}"


def _environment(sessions: Sequence[dict[str, Any]], last: dict[str, Any]) -> dict[str, Any]:
    here = sessions[-1] if sessions else {}
    packages = {name: version for name, version in here.get("packages", {}).items() if version}
    return {
        "GPU": here.get("cuda") or "none",
        "processor": here.get("processor") or "unknown",
        "threads": here.get("threads"),
        "platform": here.get("platform"),
        "python": here.get("python"),
        **packages,
        "commit": here.get("commit") or "none (installed package)",
        "finished in a session begun": here.get("time"),
        "sessions": len(sessions),
        "minutes": f"{last['seconds'] / 60:.2f}" if "seconds" in last else "unknown",
    }


def _flat(value: dict[str, Any], below: str = "") -> dict[str, Any]:
    """Nested fields by dotted names; a class goes under the name of its field."""
    rows: dict[str, Any] = {}
    for name, item in value.items():
        key = below.rstrip(".") if name == "class" and below else below + name
        rows |= _flat(item, f"{key}.") if isinstance(item, dict) else {key: item}
    return rows


def _table(rows: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    return "\n".join(["| | |", "| --- | --- |", *(f"| {cell(name)} | {cell(value)} |" for name, value in rows.items())])


BATCHES = (1, 7)  # two batch sizes, to check that the exported batch dimension is dynamic
ONNX = ("onnx", "onnxscript", "onnxruntime")
Model = Callable[[Tensor], Tensor]


def export(source: Path | str, out: Path | str, form: str, size: int | None = None) -> float:
    """Write the model of ``source`` to ``out``; returns the largest difference between logits of the two.

    Args:
        source: a run's folder, or a weights file.
        out: the file to write; an existing one is replaced only if the new one agrees with the model.
        form: "safetensors", "torch" (torch.export, .pt2) or "onnx".
        size: height and width of the images, for a weights file that does not say it.

    Raises:
        ValueError: the model cannot be exported, or the exported one disagrees with it; then nothing is written.
        FileNotFoundError: no such model.
    """
    if form == "onnx":
        need_onnx()
    model, about = weights.load(source), weights.trained_on(source)
    images = [random_images(n, _shape(model, about, source, size)) for n in BATCHES]
    note = json.dumps({"easybn": asdict(about) if about else None})
    with replacing(out) as file:
        if form == "safetensors":
            content = weights.file_of(source).read_bytes()
        else:
            content = (_torch if form == "torch" else _onnx)(model, images[-1], note)
        file.write(content)
        file.flush()
        written = READERS[form](Path(file.name))
        return largest_difference(model, written, images)


def largest_difference(model: Model, other: Model, images: list[Tensor]) -> float:
    """Largest difference between two models' logits on ``images``; ValueError if it is more than rounding."""
    largest = 0.0
    for x in images:
        with torch.no_grad():
            expected, found = model(x.clone()), other(x.clone())
        gap = float((expected - found).abs().max()) if expected.shape == found.shape else float("nan")
        if not gap <= 1e-4 * max(1.0, float(expected.abs().max())):
            raise ValueError(f"the exported model's outputs differ by {gap:g} for {len(x)} images: nothing is written")
        largest = max(largest, gap)
    return largest


def need_onnx() -> None:
    """Raise ValueError if a package for ONNX is missing."""
    if missing := [name for name in ONNX if importlib.util.find_spec(name) is None]:
        raise ValueError(f"ONNX needs {', '.join(missing)}: pip install easybn[onnx]")


def _shape(
    model: nn.Module, about: weights.TrainedOn | None, source: Path | str, size: int | None
) -> tuple[int, int, int]:
    if about is not None:
        if size is not None and about.shape[1:] != (size, size):
            raise ValueError(f"the model of {source} was trained on images of shape {about.shape}: leave out --size")
        return about.shape
    if size is None:
        raise ValueError(f"{source} does not say the size of its images: give it, such as --size 32")
    mean: Any = model.get_submodule("normalise").mean
    return len(mean), size, size


def random_images(n: int, shape: tuple[int, int, int]) -> Tensor:
    """(n, C, H, W) images uniform in [0, 1], the same on every call."""
    return Noise.of(0, "export", torch.arange(n)).uniform(*shape)


def _program(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    try:
        # not strict, the default of newer versions: torch 2.6 cannot load a strict export of nested Sequentials
        return torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    except Exception as error:  # a model that cannot be traced: torch raises a dozen kinds of errors
        raise ValueError(f"torch.export cannot take this model: {str(error).splitlines()[0]}") from error


def _torch(model: nn.Module, x: Tensor, note: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(model, x), buffer, extra_files={"easybn.json": note})
    return buffer.getvalue()


def _onnx(model: nn.Module, x: Tensor, note: str) -> bytes:
    program = _program(model, x)
    try:
        with warnings.catch_warnings(action="ignore"):  # warnings of the exporter about itself
            made = torch.onnx.export(
                program, (x,), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
            )
        assert made is not None
        made.model.metadata_props["easybn"] = note
        return made.model_proto.SerializeToString()
    except Exception as error:  # unknown operators, or versions that do not fit torch's
        advice = "if the model is not the cause: pip install --upgrade easybn[onnx]"
        raise ValueError(f"torch cannot make ONNX of this model ({str(error).splitlines()[0]}); {advice}") from error


def _read_torch(path: Path) -> Model:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


READERS: dict[str, Callable[[Path], Model]] = {"safetensors": weights.load, "torch": _read_torch, "onnx": OnnxModel}
