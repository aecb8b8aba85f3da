"""By what a store knows its model and its data again: a model's weights and answers, the pixels and labels."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from ..attacks.prepare import Prepared
from ..keyed_random import Noise, torch_generators
from ..norm.branched import BranchedNorm

PROBES = 32
_SIZE = 8


def model_digest(model: Prepared, shape: tuple[int, ...]) -> str:
    """16 hexadecimal digits over the weights, the active branches, and the classes of a few fixed images.

    The classes tell models apart that have the same weights and another activation or normalisation. They, not
    the logits, because logits differ in their last digits from machine to machine.

    Args:
        model: from :func:`easybn.attacks.prepare.prepared`.
        shape: of an image, (C, H, W) or any other.
    """
    total = hashlib.blake2b(digest_size=_SIZE)
    for name, value in model.model.state_dict().items():
        total.update(name.encode())
        total.update(_bytes(value) if isinstance(value, Tensor) else repr(value).encode())
    for module in model.model.modules():
        if isinstance(module, BranchedNorm):
            total.update(module.active.encode())
    total.update(_bytes(_classes(model, probe_images(shape))))
    return total.hexdigest()


def data_digest(x: Tensor, y: Tensor) -> str:
    """16 hexadecimal digits over the images in the type that attacks see, and their labels."""
    x = x if x.dtype == torch.float64 else x.float()
    total = hashlib.blake2b(repr(tuple(x.shape)).encode(), digest_size=_SIZE)
    for start in range(0, len(x), 1000):
        total.update(_bytes(x[start : start + 1000]))
    total.update(_bytes(y.long()))
    return total.hexdigest()


def probe_images(shape: tuple[int, ...]) -> Tensor:
    """(32, *shape) float32 in [0, 1], the same for ever: from even grounds to plain noise."""
    noise = Noise.of(0, "evaluation/probe", torch.arange(PROBES))
    ground = noise.child("ground").uniform(shape[0], *[1] * (len(shape) - 1))
    share = torch.linspace(0, 1, PROBES).view(-1, *[1] * len(shape))
    return ground + (noise.child("pixels").uniform(*shape) - ground) * share


@torch.no_grad()
def _classes(model: Prepared, x: Tensor) -> Tensor:
    devices = [model.device] if model.device is not None and model.device.type == "cuda" else []
    with torch_generators(devices, 0):  # a model that draws random numbers draws the same ones each time
        return model.original(model.load(x)).argmax(1).cpu()


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    about = f"{flat.dtype}{tuple(value.shape)}".encode()
    return about + np.asarray(flat.view(torch.uint8)).tobytes()
