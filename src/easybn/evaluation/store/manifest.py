"""What the evaluation in a folder is: everything that decides its results, and nothing that does not."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...attacks.attack_mode import TargetModel
from ...attacks.registry import UNBOUNDED
from ...files import new_folder
from ...json_files import Damaged, read_json, write_json
from ...keyed_random import Noise, torch_generators
from ...norm.branched import BranchedNorm
from ..record import CLEAN, Record, Stage
from ..verdicts import to_attack

SCHEMA = 1
NORMS = ("l2", "linf")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A job: one model, one list of points, one list of stages.

    Args:
        model: digest of the model: of its weights, and of what it says of a few fixed images.
        data: digest of the points' images and labels.
        points: their ids, in order, each once.
        norm: "l2" or "linf".
        eps: radii in [0, 1] pixel units, ascending, each positive.
        attacks: names, in the order in which they are run at each radius.
        seed: of all that is random.
        batch_size: images a forward pass at most; kernels round differently for other sizes.
        chunk: points whose stages one process works on at a time.
        share: see :func:`easybn.evaluation.verdicts.proves`.
        keep_images: the adversarial images are stored too.
        preparation: what was done to the model before the attacks, as text.
        version: of the attacks.
        settings: what else decides results, by name, in values that JSON knows.
        schema: of the files.
        branch: of a run, "main" for the deployed one; None if it is not known (manifests of earlier versions).

    Raises:
        ValueError: anything out of range.
    """

    model: str
    data: str
    points: tuple[int, ...]
    norm: str
    eps: tuple[float, ...]
    attacks: tuple[str, ...]
    seed: int = 0
    batch_size: int = 256
    chunk: int = 256
    share: bool = True
    keep_images: bool = False
    preparation: str = ""
    version: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    schema: int = SCHEMA
    branch: str | None = None

    def __post_init__(self) -> None:
        # as they come back from the file, so that what was asked compares with it
        plain: dict[str, Any] = {"points": tuple(map(int, self.points)), "eps": tuple(map(float, self.eps))}
        plain |= {"attacks": tuple(self.attacks), "settings": json.loads(json.dumps(self.settings))}
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.norm not in NORMS:
            raise ValueError(f"unknown norm {self.norm!r}; known: {', '.join(NORMS)}")
        if list(self.eps) != sorted(set(self.eps)) or not all(0 < eps < math.inf for eps in self.eps):
            raise ValueError(f"eps must be positive and ascending, got {self.eps}")
        if len({*self.attacks, CLEAN.attack}) <= len(self.attacks):
            raise ValueError(f"attacks must differ, and clean comes by itself, got {', '.join(self.attacks)}")
        if not self.points or len(set(self.points)) < len(self.points):
            raise ValueError("points must be there, and differ")
        if self.chunk < 1 or self.batch_size < 1:
            raise ValueError(f"chunk and batch_size must be at least 1, got {self.chunk} and {self.batch_size}")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Clean first, then every attack at every radius, the smallest radius first."""
        return (CLEAN, *(Stage(attack, eps) for eps in self.eps for attack in self.attacks))

    @property
    def unbounded(self) -> frozenset[str]:
        """Names of the attacks that search for the nearest adversarial image, whatever the radius."""
        return frozenset((*UNBOUNDED, *self.settings.get("unbounded", ())))

    def to_attack(self, record: Record, stage: Stage, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of ``points`` that ``stage`` has to work on, see :func:`easybn.evaluation.verdicts.to_attack`."""
        return to_attack(record, stage, points, self.share, self.unbounded)

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-len(self.points) // self.chunk)

    def rows(self, chunk: int) -> range:
        """The positions in ``points`` of a chunk's points."""
        return range(len(self.points))[chunk * self.chunk : (chunk + 1) * self.chunk]

    def points_of(self, chunk: int) -> NDArray[np.int64]:
        """int64 (n,), ids of a chunk's points."""
        rows = self.rows(chunk)
        return np.array(self.points[rows.start : rows.stop], np.int64)

    @cached_property
    def digest(self) -> str:
        """16 bytes in hexadecimal, by which the job's files know it."""
        return hashlib.blake2b(self.to_json(indent=None).encode(), digest_size=16).hexdigest()

    def to_json(self, indent: int | None = 1) -> str:
        """The fields as text."""
        # without an unknown branch: stores from before the field was there keep their digest
        values = {name: value for name, value in asdict(self).items() if name != "branch" or value is not None}
        return json.dumps(values, sort_keys=True, allow_nan=False, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """What ``to_json`` wrote.

        Raises:
            ValueError: anything else.
        """
        values: Any = json.loads(text)
        if not isinstance(values, dict) or set(values) | {"branch"} != {each.name for each in fields(cls)}:
            raise ValueError("these are not the fields of a manifest")
        return cls(**values)

    def differences(self, asked: "Manifest") -> list[str]:
        """The fields that differ, one a line: ``name: this value here, the other asked``."""
        here, there = (asdict(each) | {f"settings.{k}": v for k, v in each.settings.items()} for each in (self, asked))
        ignored = {"settings"} | ({"branch"} if None in (self.branch, asked.branch) else set())
        names = [name for name in here | there if name not in ignored and here.get(name) != there.get(name)]
        return [f"{name}: {_shown(here.get(name))} here, {_shown(there.get(name))} asked" for name in names]


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 8:
        name = hashlib.blake2b(repr(value).encode(), digest_size=4).hexdigest()
        return f"{len(value)} ({value[0]} .. {value[-1]}, digest {name})"
    return repr(value)


NAME = "manifest.json"
"""The first file of an evaluation's folder, written once."""


def open_store(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest in ``folder`` if it is that of the job ``manifest``; a folder that is missing or empty is made so.

    Raises:
        ValueError: it is another job's (the message names what differs) or holds other things.
        OSError: it cannot be written.
    """
    if not (folder / NAME).exists():
        holds_other_things = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if holds_other_things and not (folder / NAME).exists():  # looked for again: another process may have made it
            raise ValueError(f"{folder} holds other things and no {NAME}: use another folder")
        with new_folder(folder) as part:
            write_json(part / NAME, json.loads(manifest.to_json()), indent=1)
    # of several processes that come at the same time one was first; the others find its manifest
    found = read_manifest(folder)
    if differences := found.differences(manifest):
        what = f"{folder} is of another evaluation: use another folder, or move this one away"
        raise ValueError("\n  ".join([what, *differences]))
    return found


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it is damaged, or cannot be understood.
    """
    path = folder / NAME
    try:
        return Manifest.from_json(json.dumps(read_json(path)))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no folder of verdicts: it has no {NAME}") from None
    except Damaged as error:
        raise Damaged(f"{error}: restore it, or use another folder") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another version of easybn ({error})") from error


# How a store recognises its model and its data.

PROBES = 32
_DIGEST_BYTES = 8


def model_digest(model: TargetModel, shape: tuple[int, ...]) -> str:
    """16 hexadecimal digits of the weights, the active branches, and the classes predicted for a few fixed images.

    The predictions tell models apart that have the same weights and another activation or normalisation: classes and
    not logits, because logits differ in their last digits from machine to machine.

    Args:
        model: from :func:`easybn.attacks.attack_mode.attack_mode`.
        shape: of an image, (C, H, W) or any other.
    """
    total = hashlib.blake2b(digest_size=_DIGEST_BYTES)
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
    total = hashlib.blake2b(repr(tuple(x.shape)).encode(), digest_size=_DIGEST_BYTES)
    for start in range(0, len(x), 1000):
        total.update(_bytes(x[start : start + 1000]))
    total.update(_bytes(y.long()))
    return total.hexdigest()


def probe_images(shape: tuple[int, ...]) -> Tensor:
    """(32, *shape) float32 in [0, 1], always the same: from constant images to plain noise."""
    noise = Noise.of(0, "evaluation/probe", torch.arange(PROBES))
    ground = noise.child("ground").uniform(shape[0], *[1] * (len(shape) - 1))
    share = torch.linspace(0, 1, PROBES).view(-1, *[1] * len(shape))
    return ground + (noise.child("pixels").uniform(*shape) - ground) * share


@torch.no_grad()
def _classes(model: TargetModel, x: Tensor) -> Tensor:
    devices = [model.device] if model.device is not None and model.device.type == "cuda" else []
    with torch_generators(devices, 0):  # a model that draws random numbers draws the same ones each time
        return model.original(model.load(x)).argmax(1).cpu()


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    about = f"{flat.dtype}{tuple(value.shape)}".encode()
    return about + np.asarray(flat.view(torch.uint8)).tobytes()
