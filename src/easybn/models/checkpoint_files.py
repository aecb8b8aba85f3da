"""What a checkpoint holds: its tensors and plain values, while nothing in the file is run and no class is imported.

Containers differ: safetensors, torch's zip and older formats, under any suffix. Objects of other classes are left out.
"""

import builtins
import json
import os
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..json_files import Damaged, digest, parse_json, with_checksum, without_checksum

_DICTS = {"AttributeDict", "AttrDict", "EasyDict", "CfgNode", "Munch", "Box", "defaultdict"}  # configs are kept in them
_HARMFUL = {"builtins", "os", "posix", "nt", "sys", "subprocess", "shutil", "importlib", "runpy", "socket", "pickle"}
_HARMFUL |= {"code", "operator", "webbrowser", "ctypes", "_pickle", "marshal", "pty", "commands"}
_NO_CHECKPOINT = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: git lfs pull",
    b"\x89HDF": "an HDF5 file (Keras?), not a checkpoint of torch",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"<": "a web page, not a checkpoint: download the file again",
}


class _Inert:
    """In the place of an object whose class is not loaded: keeps nothing, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _InertDict:
    """The same for a subclass of dict: a plain one, since torch puts items into no other."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _InertList:
    """The same for an object that is filled like a list."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return []


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds; objects of other classes than tensors and plain values are left out as they are."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file of the weights in it")
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    with path.open("rb") as file:
        start = file.read(64)
    safe = start[8:9] == b"{" or not start
    for mark, what in {} if safe else _NO_CHECKPOINT.items():
        if start.lstrip().startswith(mark):
            raise ValueError(f"{path} is {what}")
    try:
        content = read_safetensors(path)[1] if safe else _unpickled(path)
    except Exception as error:
        match = re.search(r"((?:Unsupported|Can only|Trying to) [^\n]+)", str(error))
        reason = (match[1] if match else str(error).split("\n")[0])[:300]
        if "weights_only" in reason:  # torch's advice to run what is in the file is not ours
            reason = "objects in it can be loaded by their own code only"
        hint = (
            ": save model.state_dict()" if "torchscript" in reason.lower() or isinstance(error, UnpicklingError) else ""
        )
        raise ValueError(f"{path} cannot be read as weights ({type(error).__name__}: {reason}){hint}") from error
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} holds a complete model or object, which only its code can load: save model.state_dict()"
        )
    return content


def read_safetensors(path: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the header of a file says under the key "easybn", and its tensors, verified by the checksums in it, if any.

    Args:
        tensors: whether they are read; an empty dict otherwise.

    Raises:
        safetensors.SafetensorError: no such file.
        Damaged: it is not what was written.
    """
    with safetensors.safe_open(path, framework="pt") as content:
        about = without_checksum(
            parse_json((content.metadata() or {}).get("easybn", "{}").encode(), str(path)), str(path)
        )
        state = {name: content.get_tensor(name) for name in (content.keys() if tensors else ())}
    if tensors and "tensors" in about and about["tensors"] != state_digest(state):
        raise Damaged(f"{path} is damaged: the checksum of its weights is another one")
    return about, state


def checksums(state: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The header of a safetensors file of ``state``, for :func:`read_safetensors`: what it says, with checksums.

    Args:
        about: what it says, as JSON can hold it.
    """
    return {"easybn": json.dumps(with_checksum({**(about or {}), "tensors": state_digest(state)}))}


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Of tensors on the CPU, their names, types and shapes."""
    parts: list[bytes | memoryview] = []
    for name, tensor in sorted(state.items()):
        parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        parts.append(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest(*parts)


def _unpickled(path: Path) -> Any:
    unknown = sorted(_unknown_classes(path))
    if harmful := [name for name in unknown if _harmful(*name.rsplit(".", 1))]:
        raise ValueError(f"it asks for {harmful[0]}, which no weights need: do not trust this file")
    kinds = dict.fromkeys(_DICTS, _InertDict) | {"deque": _InertList}
    inert = [(kinds.get(name.rpartition(".")[2], _Inert), name) for name in unknown]
    with torch.serialization.safe_globals(inert), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.simplefilter("ignore")  # about the pickle protocol, and storages of old files
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def tensors_only() -> Iterator[None]:
    """Inside the block, a library that calls ``torch.load`` unpickles nothing, whatever it or the environment asks."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _harmful(module: str, name: str) -> bool:
    """Whether a pickle with that function is meant to do something; classes of builtins are plain values."""
    plain = module == "builtins" and isinstance(getattr(builtins, name, None), type)
    return module.partition(".")[0] in _HARMFUL and not plain


def _unknown_classes(path: Path) -> set[str]:
    """Names of the classes and functions in a checkpoint that torch would not load by itself."""
    known = set(torch._weights_only_unpickler._get_allowed_globals())
    if zipfile.is_zipfile(path):
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    names = set()
    with path.open("rb") as file:  # before torch 1.6: magic number, protocol, system, content, names of storages
        for _ in range(4):
            for code, value, _position in pickletools.genops(file):
                if code.name == "GLOBAL":
                    names.add(str(value).replace(" ", "."))
    return names - known
