"""Weights from anybody's file into a model: every tensor has its place, or a clear line says which has not."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_INSIDE = ("state_dict", "model_state_dict", "model")  # where trainings keep the weights among other things
_WRAPPERS = ("module.", "_orig_mod.")  # of data parallel and torch.compile


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict saved by torch, from which nothing else is unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or one that holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix not in PICKLES:
            raise ValueError("know .safetensors and " + ", ".join(PICKLES))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}: {reason})") from error
    content = next((content[key] for key in _INSIDE if isinstance(content, Mapping) and key in content), content)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict: save model.state_dict(), or a .safetensors file")
    return dict(content)


def fill(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Put weights into ``model``, or into the network behind its normalisation if that is whose names they have.

    Args:
        model: filled in place.
        state: as from :func:`read_state`; prefixes that wrappers leave are dropped.
        name: of the file, for the message.

    Raises:
        ValueError: tensors too many, too few or of another shape; the message names some.
    """
    for prefix in _WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    inner = getattr(model, "network", None)
    if isinstance(inner, nn.Module) and set(state) == set(inner.state_dict()) != set(model.state_dict()):
        model = inner
    wanted = model.state_dict()
    wrong = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
    }
    if any(wrong.values()):
        told = [f"{len(keys)} {what}, such as {keys[0]}" for what, keys in wrong.items() if keys]
        raise ValueError(f"the weights in {name} do not fit the model: {'; '.join(told)}")
    model.load_state_dict(dict(state))
