"""What the stacked experiment is asked to do, and the conditions that follow from it."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from ...perturb.ball import Linf
from ...perturb.eps import format_eps
from ...perturb.pgd import PGD
from .pairs import LAYOUTS

COPIES = ("easy", "untouched", "adversarial")
_IN_ROWS = ("eps", "steps", "copies", "seeds")  # these differ between the rows of one folder
_NOT_RESULTS = ("data_folder",)


@dataclass(frozen=True)
class Condition:
    """What stands beside the originals: one training of a fresh network a seed.

    Args:
        copy: "easy", "adversarial" or "untouched".
        eps: l-infinity radius in [0, 1] pixel units; None for an untouched copy.
        steps: gradient steps, of length eps for one and 2.5 eps / steps for more; None for an untouched copy.
    """

    copy: str
    eps: float | None = None
    steps: int | None = None

    @property
    def attack(self) -> PGD | None:
        """What makes the copies; None where nothing does."""
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
        layout: where the copy stands: "above": the original above its copy (two images with one edge in common, as
            'stacked' has it), "beside": the original left of it, "channels": as further channels.
        eps: l-infinity radii of the copies in [0, 1] pixel units, whole 255ths, since copies are 8-bit images.
        steps: gradient steps of the copies. Every eps is combined with every number of steps.
        copies: "easy", and the controls "untouched" and "adversarial" (untargeted).
        seeds: number of repetitions, seeds 0 to seeds - 1, each with a first network of its own.
        epochs_first: epochs of the first network, on all classes.
        epochs: epochs of the network that is trained on stacked images.
        batch_size: images a step, in both.
        train_images: use only so many of the data set's training images; all by default.
        data_folder: where the data set lies; searched for by default.
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
        """Without repetition, in the order asked for."""
        return list(dict.fromkeys(self._conditions()))

    def _conditions(self) -> Iterator[Condition]:
        for copy in self.copies:
            if copy == "untouched":
                yield Condition(copy)
            else:
                yield from (Condition(copy, round(255 * eps) / 255, steps) for eps in self.eps for steps in self.steps)

    def fixed(self, classes: tuple[str, str]) -> dict[str, Any]:
        """What all rows of a folder have in common, the classes by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v for k, v in values.items() if k not in _IN_ROWS + _NOT_RESULTS} | {"classes": list(classes)}
