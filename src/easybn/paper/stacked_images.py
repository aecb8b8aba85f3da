"""The stacked experiment's settings, and its images: pairs, their copies, a half randomised, and pictures of them."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, PngImagePlugin
from torch import Tensor, nn

from ..data import Source, Split
from ..files import replacing
from ..json_files import Row
from ..keyed_random import Noise
from ..modes import evaluating
from ..perturb.ball import Linf
from ..perturb.eps import format_eps
from ..perturb.goal import easy, untargeted
from ..perturb.pgd import PGD
from ..runs.perturb_image import class_number

# What is trained and measured.

LAYOUTS = {"above": 2, "beside": 3, "channels": 1}
"""The dimension of (N, C, H, W) along which the original comes first and its copy second."""
COPIES = ("easy", "untouched", "adversarial")
_IN_ROWS = ("eps", "steps", "copies", "seeds")  # these differ between the rows of one folder
_NOT_RESULTS = ("data_folder",)


@dataclass(frozen=True)
class Condition:
    """How the copies are made; a fresh network is trained for each condition and seed.

    Args:
        copy: "easy", "adversarial" or "untouched".
        eps: l-infinity radius in [0, 1] pixel units; None for an untouched copy.
        steps: gradient steps, of length eps for one and 2.5 eps / steps for more; None for an untouched copy.
    """

    copy: str
    eps: float | None = None
    steps: int | None = None

    @classmethod
    def of(cls, row: Row) -> "Condition":
        """The condition of a row of rows.jsonl."""
        return cls(row["copy"], row["eps"], row["steps"])

    @property
    def attack(self) -> PGD | None:
        """What makes the copies; None for untouched ones."""
        return None if self.eps is None or self.steps is None else PGD(Linf(self.eps), steps=self.steps)

    def __str__(self) -> str:
        if self.eps is None:
            return self.copy
        return f"{self.copy} {format_eps(self.eps, 'linf')}, {self.steps} step{'s' * (self.steps != 1)}"

    @property
    def file_name(self) -> str:
        """``easy-8of255-10steps``, and ``untouched``."""
        return str(self).replace(", ", "-").replace(" ", "-", 1).replace(" ", "").replace("/", "of")


@dataclass(frozen=True)
class Settings:
    """The experiment; the defaults are the paper's where it says something.

    Args:
        data: sample, fashion-mnist, cifar10, cifar100, or the path of an image folder or zip.
        classes: the two classes, by name or number; by default automobile and truck (the paper's), or T-shirt/top
            and Shirt, whichever the data set has.
        model: of both networks; see :func:`easybn.models.build`.
        layout: where the copy is: "above": the original above its copy (two images with one edge in common, as
            'stacked' has it), "beside": the original left of it, "channels": as further channels.
        eps: l-infinity radii of the copies in [0, 1] pixel units, whole 255ths, since copies are 8-bit images.
        steps: gradient steps of the copies. Every eps is combined with every number of steps.
        copies: "easy", and the controls "untouched" and "adversarial" (untargeted).
        seeds: number of repetitions, seeds 0 to seeds - 1, each with its own first network.
        epochs_first: epochs of the first network, on all classes.
        epochs: epochs of the network that is trained on stacked images.
        batch_size: images per step, in both trainings.
        train_images: use only so many of the data set's training images; all by default.
        data_folder: where the data set is; searched for by default.
        resize, channels, test_fraction: of an image folder, see :func:`easybn.data.load`.

    Raises:
        ValueError: a value out of range; the message names it.
    """

    data: str = "sample"
    classes: tuple[str, str] | None = None
    model: str = "resnet_tiny"
    layout: str = "above"
    eps: tuple[float, ...] = (1 / 255, 8 / 255, 16 / 255)
    steps: tuple[int, ...] = (1, 10)
    copies: tuple[str, ...] = COPIES
    seeds: int = 3
    epochs_first: int = 1
    epochs: int = 5
    batch_size: int = 128
    train_images: int | None = None
    data_folder: str | None = None
    resize: int | None = None
    channels: int | None = None
    test_fraction: float | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs_first", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, known in (("copies", COPIES), ("layout", tuple(LAYOUTS))):
            given = getattr(self, name)
            for value in given if isinstance(given, tuple) else (given,):
                if value not in known:
                    raise ValueError(f"{name}: no {value!r}, there are {', '.join(known)}")
        if not self.copies:
            raise ValueError("copies: name at least one of " + ", ".join(COPIES))
        if not (self.eps and self.steps) and self.copies != ("untouched",):
            raise ValueError("perturbed copies need at least one eps and one number of steps")
        for steps in self.steps:
            if steps < 1:
                raise ValueError(f"steps must be at least 1, got {steps}")
        for eps in self.eps:
            if not (0 < eps <= 1 and abs(255 * eps - round(255 * eps)) < 1e-6):
                raise ValueError(
                    f"eps must be a whole number of 255ths in (0, 1] (copies are 8-bit images), got {255 * eps:g}/255"
                )

    @property
    def conditions(self) -> list[Condition]:
        """The conditions of the experiment, each once, in the order asked for."""
        return list(dict.fromkeys(self._conditions()))

    def _conditions(self) -> Iterator[Condition]:
        for copy in self.copies:
            if copy == "untouched":
                yield Condition(copy)
            else:
                yield from (Condition(copy, round(255 * eps) / 255, steps) for eps in self.eps for steps in self.steps)

    def fixed(self, classes: tuple[str, str]) -> dict[str, Any]:
        """The settings that all rows of a folder have in common, the classes by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v for k, v in values.items() if k not in _IN_ROWS + _NOT_RESULTS} | {"classes": list(classes)}


# Images of two classes with a copy of each, and the one image that a pair makes.

DEFAULT_CLASSES = (("automobile", "truck"), ("T-shirt/top", "Shirt"))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Originals and copies, both uint8 of shape (N, C, H, W), and labels, int64 (N,), 0 for the first class, else 1."""

    originals: Tensor
    copies: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def stack(originals: Tensor, copies: Tensor, layout: str) -> Tensor:
    """(N, C, 2H, W) for "above", (N, C, H, 2W) for "beside", (N, 2C, H, W) for "channels"."""
    return torch.cat((originals, copies), LAYOUTS[layout])


def two_classes(source: Source, asked: Sequence[str] | None) -> tuple[int, int]:
    """The labels of the two classes ``asked`` for, by name or number.

    Raises:
        ValueError: no such class, the same one twice, none asked for of a data set without a default, or a class
            without test images.
    """
    known = ", ".join(source.classes[:20]) + (", ..." if len(source.classes) > 20 else "")
    names = asked or next((pair for pair in DEFAULT_CLASSES if set(pair) <= set(source.classes)), None)
    if names is None:
        raise ValueError(f"--classes: name two classes of {source.name}; there are {known}")
    first, second = (class_number(name, source.classes, "--classes") for name in names)
    if first == second:
        raise ValueError(f"--classes: {source.classes[first]} is named twice, give two different ones of {known}")
    for kind, split in (("training", source.train), ("test", source.test)):
        for label in (first, second):
            if not bool((split.labels == label).any()):
                raise ValueError(f"--classes: there are no {kind} images of {source.classes[label]} in {source.name}")
    return first, second


def rows_of(split: Split, classes: tuple[int, int]) -> Tensor:
    """(N,) int64: the numbers of the images of either class, in file order."""
    return torch.isin(split.labels, torch.tensor(classes)).nonzero().squeeze(1)


# The copy of each image: easier or harder for the first network, or untouched.

BATCH = 256


def paired(net: nn.Module, split: Split, classes: tuple[int, int], condition: Condition) -> Pairs:
    """The images of two classes in ``split``, and their copies.

    Args:
        net: the first network, which knows all classes; plain, perturbed through in eval mode.
        classes: their two labels in ``split``.
    """
    rows = rows_of(split, classes)
    copies = [copied(net, *split.batch(some), condition) for some in torch.split(rows, BATCH)]
    return Pairs(split.pixels(rows), torch.cat(copies), (split.labels[rows] == classes[1]).long())


def copied(net: nn.Module, x: Tensor, y: Tensor, condition: Condition) -> Tensor:
    """8-bit copies (N, C, H, W) of images in multiples of 1/255: towards the true label for "easy", else away from it.

    Rounded to the nearest of 256 levels, as a PNG would store them. With an eps that is a multiple of 1/255 the ball
    ends on such a level, so that no copy leaves it; a single step ends on levels and loses nothing.
    """
    if condition.attack is not None:
        device = next(net.parameters()).device
        goal = easy(y.to(device)) if condition.copy == "easy" else untargeted(y.to(device))
        with evaluating(net):
            x = condition.attack(net, x.to(device), goal).cpu()
    return (255 * x).round().byte()


def recognised(net: nn.Module, images: Tensor, labels: Tensor) -> int:
    """The number of images (uint8) that ``net``, in eval mode, classifies as their label (N,)."""
    device = next(net.parameters()).device
    right = 0
    with torch.inference_mode(), evaluating(net):
        for x, y in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            right += int((net(x.to(device).float() / 255).argmax(1).cpu() == y).sum())
    return right


# One half of the pairs replaced by something meaningless, or by that of the other class.

HALVES = ("copy", "original")
WAYS = ("noise", "swap", "blank")


@dataclass(frozen=True, eq=False)
class Randomiser:
    """Replaces one half of test pairs.

    ====== ==========================================================================================
    noise  every value drawn uniformly from the 256 levels; a network that sees nothing else is right
           by chance, 50% of the time where the classes have the same size
    swap   the same half of a random image of the other class; a network that sees nothing else is
           always wrong, 0%
    blank  the mean of the training images, one level per channel: what the network's normalisation
           maps to zero, on any data set (black is what Fashion-MNIST's background looks like)
    ====== ==========================================================================================

    Args:
        pairs: both classes among them.
        grey: (C,) uint8, the level of each channel for "blank".
        seed: of the noise and of the images swapped with.
    """

    pairs: Pairs
    grey: Tensor
    seed: int

    def __call__(self, index: Tensor, half: str | None, how: str | None) -> tuple[Tensor, Tensor]:
        """(originals, copies) of the samples numbered ``index`` (B,), uint8 (B, C, H, W), with ``half`` replaced.

        Args:
            half: "original", "copy", or None to leave both.
            how: "noise", "swap" or "blank".
        """
        halves = {"original": self.pairs.originals, "copy": self.pairs.copies}
        chosen = {name: images[index] for name, images in halves.items()}
        if half is not None:
            shape = chosen[half].shape[1:]
            if how == "noise":
                chosen[half] = Noise.of(self.seed, "stacked noise", index).integers(256, *shape).byte()
            elif how == "swap":
                chosen[half] = halves[half][partners(self.pairs.labels, self.seed)[index]]
            else:
                chosen[half] = self.grey.view(-1, 1, 1).expand(len(index), *shape)
        return chosen["original"], chosen["copy"]


def partners(labels: Tensor, seed: int) -> Tensor:
    """(N,) for each sample the number of a sample of the other class, drawn by (seed, sample); labels are 0 and 1."""
    noise = Noise.of(seed, "stacked swap", torch.arange(len(labels)))
    numbers = torch.empty_like(labels)
    for label in (0, 1):
        others = (labels != label).nonzero().squeeze(1)
        mine = labels == label
        numbers[mine] = others[noise.integers(len(others))[mine]]
    return numbers


# Pictures as the paper shows them: originals above their copies, and the changes, amplified.

SHOWN = 8  # pairs per class
TILE = 64  # pixels of an image's smaller side, at least
MARGIN = 150  # for the text on the left
GAP = 4


def amplification(pairs: Pairs, index: Tensor) -> int:
    """The largest integer factor by which every difference still fits between black and white around grey."""
    largest = int((pairs.copies[index].int() - pairs.originals[index].int()).abs().max())
    return max(1, 127 // largest) if largest else 1


def picture(pairs: Pairs, classes: Sequence[str], title: str) -> Image.Image:
    """Three rows for each class: the first originals, their copies, the amplified differences around grey.

    Args:
        pairs: images of 1 or 3 channels (of others the first is shown).
        classes: the two names.
        title: what the copies are, such as "easy 8/255, 10 steps".
    """
    columns = [(pairs.labels == label).nonzero().squeeze(1)[:SHOWN] for label in (0, 1)]
    shown = torch.cat(columns)
    factor = amplification(pairs, shown)
    height, width = (-(-TILE // min(pairs.originals.shape[2:])) * size for size in pairs.originals.shape[2:])
    block = 3 * (height + GAP) + 2 * GAP
    canvas = Image.new("RGB", (MARGIN + max(map(len, columns)) * (width + GAP), 2 * block), "white")
    draw = ImageDraw.Draw(canvas)
    for label, index in enumerate(columns):
        originals, copies = pairs.originals[index], pairs.copies[index]
        changed = (128 + factor * (copies.int() - originals.int())).clamp(0, 255).byte()
        texts = (f"class {label}: {classes[label]}", title, f"difference x {factor}")
        for row, (text, images) in enumerate(zip(texts, (originals, copies, changed), strict=True)):
            top = label * block + row * (height + GAP) + GAP
            draw.text((4, top + height // 2 - 6), text, fill="black")
            for column, image in enumerate(images):
                tile = _tile(image).resize((width, height), Image.Resampling.NEAREST)
                canvas.paste(tile, (MARGIN + column * (width + GAP), top))
    return canvas


def save_picture(path: Path, pairs: Pairs, classes: Sequence[str], title: str) -> None:
    """:func:`picture` as a PNG file, what it shows written in its header too."""
    about = PngImagePlugin.PngInfo()
    index = torch.cat([(pairs.labels == label).nonzero().squeeze(1)[:SHOWN] for label in (0, 1)])
    about.add_text("Description", f"{title}; difference x {amplification(pairs, index)}")
    buffer = io.BytesIO()
    picture(pairs, classes, title).save(buffer, "PNG", pnginfo=about)
    with replacing(path) as file:
        file.write(buffer.getvalue())


def _tile(image: Tensor) -> Image.Image:
    pixels: np.ndarray = image.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])).convert("RGB")
