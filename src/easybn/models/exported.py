"""Models in files that other programs wrote: ONNX, run by ONNX Runtime; and why archives of torch.export are not read.

An ONNX model has no gradient here, so that only attacks without one can be tried on it. What they leave is an upper
bound of its robust accuracy, and never comparable with figures of AutoAttack.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..files import check_regular
from .registry import Normalise

ENDINGS = (".onnx", ".pt2")
"""Of files that are a model by themselves."""
PACKAGES = ("onnx", "onnxruntime")
TYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


class OnnxModel(nn.Module):
    """The function of an ONNX file, from images (N, ...) to a tensor, or to a dict of tensors if it has more outputs.

    It runs on the CPU and has no gradient. Images are converted to the type that the file asks for; a file for batches
    of one size gets the images in such batches, the last one filled up. Weights may be in files beside it.

    Args:
        path: of the file.

    Raises:
        ValueError: a package is missing; the file cannot be read, or does not take one batch of floating-point images.
    """

    def __init__(self, path: Path | str):
        super().__init__()
        if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
            raise ValueError(f"{path}: ONNX needs {', '.join(missing)}: pip install easybn[onnx]")
        content = _whole(Path(path))
        # all its state, by which a store of verdicts knows the file
        digest = hashlib.blake2b(content, digest_size=16).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self._session = _session(content, path)
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in TYPES:
            found = ", ".join(f"{each.name} {each.type}" for each in inputs)
            raise ValueError(f"{path} must take one batch of floating-point images, and it takes: {found or 'nothing'}")
        self._input, self._dtype = inputs[0].name, TYPES[inputs[0].type]
        size = inputs[0].shape[0] if inputs[0].shape else None
        self._batch = size if isinstance(size, int) and size > 0 else None
        self._outputs = [each.name for each in self._session.get_outputs()]
        self.eval()

    def forward(self, x: Tensor) -> Any:
        batches = [x] if self._batch is None else list(torch.split(x, self._batch))
        answers = [self._answer(batch) for batch in batches]
        joined = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
        outputs = [torch.from_numpy(each).to(x.device) for each in joined]
        return outputs[0] if len(outputs) == 1 else dict(zip(self._outputs, outputs, strict=True))

    def _answer(self, x: Tensor) -> list[Any]:
        n = len(x)
        if self._batch is not None and n < self._batch:
            x = torch.cat((x, x[-1:].expand(self._batch - n, *x.shape[1:])))
        images = x.detach().to("cpu", self._dtype).contiguous().numpy()
        return [value[:n] for value in self._session.run(None, {self._input: images})]

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxModel":
        return self  # a session cannot be copied, nor does a call change it


def _whole(path: Path) -> bytes:
    """The file with all weights in it; those beside it are looked for in its folder only (by the package onnx)."""
    onnx = importlib.import_module("onnx")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    check_regular(path)
    try:
        content: bytes = onnx.load(str(path)).SerializeToString()
    except Exception as error:  # protobuf's and onnx's own kinds
        raise ValueError(f"{path} cannot be read as ONNX: {_first_line(error)}") from error
    return content


def _session(content: bytes, path: Path | str) -> Any:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors, which are raised too
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"{path} cannot be run by ONNX Runtime: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def is_exported(name: str | None) -> bool:
    """Whether a model's name is that of a file which is a model by itself."""
    return name is not None and name.lower().endswith(ENDINGS)


def load_exported(path: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> nn.Module:
    """The model of an ONNX file, in eval mode, from images in [0, 1].

    Args:
        mean, std: one number per channel, of a model that expects normalised images; by default it normalises itself.

    Raises:
        ValueError: see :class:`OnnxModel`; an archive of torch.export, which torch reads by unpickling; one of mean
            and std without the other.
    """
    if not path.lower().endswith(".onnx"):
        raise ValueError(
            f"{path}: torch.export.load unpickles parts of an archive, which can run code, so that it is not read "
            "here: convert it to ONNX, or, if you trust it, name a function that returns "
            f"torch.export.load({path!r}).module(): --model my.py:make"
        )
    if (mean is None) != (std is None):
        raise ValueError(f"{path}: mean and std go together")
    model = OnnxModel(path)
    return model if mean is None or std is None else nn.Sequential(Normalise(mean, std), model).eval()
