"""Models in files: safetensors with the model's description in the header, so that one file is enough."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from ..files import replacing


def save(model: nn.Module, path: Path | str, description: dict[str, Any] | None = None) -> None:
    """Write the state dict of ``model`` to ``path``, atomically.

    Args:
        description: what :func:`easybn.models.build` takes, plus anything that JSON can hold;
            :func:`load` builds the model from it.
    """
    state = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in model.state_dict().items()}
    header = {"easybn": json.dumps({"model": description})} if description else {}
    with replacing(path) as file:
        file.write(safetensors.torch.save(state, header))


def load(path: Path | str, model: nn.Module | None = None) -> nn.Module:
    """The plain model of a run's folder or of a weights file, in eval mode, on the CPU.

    Args:
        path: a folder with ``model.safetensors``, or such a file.
        model: where the weights belong, for a file without a description; filled in place.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no safetensors file, no description and no ``model``, or weights that do not fit.
    """
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"no weights at {file}" + (": is the training finished?" if path.is_dir() else ""))
    try:
        with safetensors.safe_open(file, framework="pt") as content:
            header = content.metadata() or {}
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file: {error}") from error
    if model is None:
        model = _described(file, header)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {file} do not fit the model: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval()


def _described(file: Path, header: dict[str, str]) -> nn.Module:
    from . import build

    description = json.loads(header.get("easybn", "{}")).get("model")
    if not isinstance(description, dict):
        raise ValueError(f"{file} does not say which model it is of: pass the model too")
    for option in ("pretrained", "weights"):  # of timm and torchvision: the weights are in the file, not to download
        description.pop(option, None)
    return build(**description)
