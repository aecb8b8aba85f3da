"""Models in files: safetensors with the model's description in the header, so that one file is enough.

The header also has a checksum of the tensors and of itself, and for the weights of a run the digest of its config: a
damaged file, or one beside the config of another run, is an error when it is read. Files without checksums load too.
"""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..files import check_regular, replacing
from ..json_files import Damaged, read_json
from .checkpoint_files import checksums, read_safetensors
from .registry import build, check_stored_options, is_code
from .state_dicts import load_weights

_BASIC = ("name", "num_classes", "in_channels", "mean", "std")  # of every model; everything else is an option


@dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on: its inputs and outputs.

    Args:
        name: of the data set.
        shape: (C, H, W) of its images.
        classes: the name of each label.
    """

    name: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]


def save(
    model: nn.Module,
    path: Path | str,
    description: dict[str, Any] | None = None,
    data: TrainedOn | None = None,
    run: dict[str, Any] | None = None,
) -> None:
    """Write the state dict of ``model`` to ``path``, atomically.

    Args:
        description: what :func:`easybn.models.build` takes, plus anything that JSON can hold;
            :func:`load` builds the model from it.
        data: what it was trained on, for :func:`trained_on`.
        run: of weights in the folder of their run: config, the digest in its config.json, and epochs, the rows of its
            metrics.jsonl.
    """
    state = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in model.state_dict().items()}
    about = {"model": description, "data": asdict(data) if data else None, "run": run}
    header = checksums(state, {key: value for key, value in about.items() if value})
    with replacing(path) as file:
        file.write(safetensors.torch.save(state, header))


def load(path: Path | str, model: nn.Module | None = None, weights_key: str | None = None) -> nn.Module:
    """The plain model of a run's folder or of a weights file, in eval mode, on the CPU.

    Args:
        path: a folder with ``model.safetensors``, such a file, hub:USER/NAME (:mod:`.hub`), or the name of a model
            that comes with the package (:func:`trained`); with ``model`` any checkpoint that
            :func:`.state_dicts.load_weights` reads.
        model: where the weights belong, for a file without a description; filled in place.
        weights_key: with ``model``: where in the checkpoint the weights are, such as "state_dict_ema".

    Raises:
        FileNotFoundError: no such file.
        ValueError: no safetensors file, no description and no ``model``, or weights that do not fit.
        Damaged: a ValueError; the file is not what was written, or of another run than the config beside it.
    """
    file = file_of(path)
    if model is not None:
        load_weights(model, file, weights_key)
        return model.eval()
    if weights_key is not None:
        raise ValueError("weights_key is for a checkpoint of your own: pass the model too")
    about, state = _read(file)
    model = _build(file, _description(file, about), state)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {file} do not fit the model: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval()


def trained_on(path: Path | str) -> TrainedOn | None:
    """What the model of a run's folder or of a weights file was trained on; None if the file does not say.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no safetensors file.
    """
    file = file_of(path)
    about, _ = _read(file, tensors=False)
    data = about.get("data")
    if not isinstance(data, dict):
        return None
    try:
        channels, height, width = map(int, data["shape"])
        return TrainedOn(str(data["name"]), (channels, height, width), tuple(map(str, data["classes"])))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: what it was trained on cannot be read from its header: {error!r}") from error


def file_of(path: Path | str) -> Path:
    """The weights file of a run's folder, of a model of the package or of the Hub, or ``path`` itself.

    Raises:
        FileNotFoundError: it is not there.
        easybn.models.hub.HubError: it cannot be had from the Hub.
    """
    from . import hub

    if hub.is_hub(path):
        return hub.fetch(str(path)).folder / hub.WEIGHTS
    if str(path) in trained() and not Path(path).exists():
        return trained()[str(path)]
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"no weights at {file}" + (": is the training finished?" if path.is_dir() else ""))
    return file


def trained() -> dict[str, Path]:
    """The trained models that come with the package, by name; files beside them say how they were made."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "trained").glob("*.safetensors"))}


def check(folder: Path) -> dict[str, Any]:
    """What the weights in a run's folder say about their run; a file that was verified before is not read again.

    Raises:
        Damaged: they are not what was written, or of another run.
    """
    file = file_of(folder)
    status = file.stat()
    seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    about, _ = _read(file, tensors=seen not in _VERIFIED)
    _VERIFIED.add(seen)
    return dict(about.get("run") or {})


def _read(file: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the header says about the model, and the state dict."""
    check_regular(file)
    try:
        about, state = read_safetensors(file, tensors)
    except safetensors.SafetensorError as error:
        raise Damaged(
            f"{file} is no safetensors file, or damaged ({error}): for a checkpoint of torch, name the model too"
        ) from error
    beside = file.parent / "config.json"
    if "run" in about and file.name == "model.safetensors" and beside.exists():
        here, config = read_json(beside).get("digest"), about["run"]["config"]
        if here not in (None, config):
            raise Damaged(f"{file} is of another run than {beside.name} beside it ({config}, not {here})")
    return about, state


_VERIFIED: set[tuple[int, ...]] = set()


def described(path: Path | str) -> dict[str, Any]:
    """Arguments of :func:`easybn.models.build` for the model of a weights file: none that loads, downloads or runs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no safetensors file, no description, or one with an option that a file must not set.
    """
    file = file_of(path)
    return _description(file, _read(file, tensors=False)[0])


def _description(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    model = about.get("model")
    if not isinstance(model, dict):
        raise ValueError(f"{file} does not say of which model it is: pass the model too")
    options = {key: value for key, value in model.items() if key not in (*_BASIC, "pretrained", "weights")}
    check_stored_options(options, f"{file}: pass the model too", of_code=is_code(str(model.get("name"))))
    basic = {key: model[key] for key in _BASIC if key in model}
    counts = [(basic.get("num_classes", 1), 10**6), (basic.get("in_channels", 1), 10**3)]
    numbers = [basic.get(key) or [0.5] for key in ("mean", "std")]
    if (
        not isinstance(basic.get("name"), str)
        or not all(type(count) is int and 0 < count <= most for count, most in counts)
        or not all(isinstance(values, list) and all(isinstance(n, int | float) for n in values) for values in numbers)
    ):
        raise ValueError(f"{file} describes its model in a way that cannot be read: pass the model too")
    return {**basic, **options}


def _build(file: Path, description: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """The model described; one far larger than the file's tensors is not built, so that a header cannot fill memory."""
    size = sum(tensor.numel() for tensor in state.values())
    try:
        if is_code(description["name"]):  # the command line names it, or ``build`` refuses
            return build(**description)
        with suppress(NotImplementedError, RuntimeError):  # not every model can be built without memory
            with torch.device("meta"):
                shadow = build(**description)
            needed = sum(tensor.numel() for tensor in shadow.state_dict().values())
            if needed > 2 * size + 10**6:
                raise ValueError(f"{file} does not fit the model that it describes, which has {needed:,} numbers")
        return build(**description)
    except TypeError as error:
        raise ValueError(f"{file}: the model that it describes cannot be built: {error}") from error
