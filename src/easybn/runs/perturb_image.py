"""One picture of the user's, perturbed for a trained model: ``easybn perturb``."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.pictures import DEEP, FRAMES, TRANSPARENT, TURNED, decode_picture
from ..perturb.goal import Goal
from ..perturb.pgd import PGD


@dataclass(frozen=True)
class PerturbedImage:
    """An image before and after, with the model's confidences.

    Images have shape (C, H, W) and values in [0, 1]; confidences have shape (K,) and sum to 1.

    Args:
        original: the image as the model sees it.
        perturbed: the result, inside the ball.
        saved: the result rounded to the 8 bits of a file, which may leave the ball by half a level.
        before, after, after_saved: the model's confidence in each class for the three images.
        distance, distance_saved: distances from the original, in the ball's norm.
    """

    original: Tensor
    perturbed: Tensor
    saved: Tensor
    before: Tensor
    after: Tensor
    after_saved: Tensor
    distance: float
    distance_saved: float

    @property
    def amplification(self) -> int:
        """Largest integer factor by which the difference around grey stays within black and white."""
        largest = float((self.perturbed - self.original).abs().max())
        return max(1, int(0.5 / largest)) if largest > 0 else 1

    @property
    def difference(self) -> Tensor:
        """(C, H, W) in [0, 1]: the amplified difference around grey, 0.5, which means no change."""
        return (0.5 + self.amplification * (self.perturbed - self.original)).clamp(0, 1)


def confidences(model: nn.Module, x: Tensor) -> Tensor:
    """(K,) softmax of the model's logits for one image (C, H, W)."""
    with torch.no_grad():
        return model(x[None].clone())[0].float().softmax(0)


def perturb(model: nn.Module, x: Tensor, attack: PGD, goal: Goal) -> PerturbedImage:
    """Perturb the image ``x`` (C, H, W) in [0, 1] for ``model``, which is in eval mode."""
    moved = attack(model, x[None], goal)[0]
    saved = (moved * 255).round() / 255
    before, after, after_saved = (confidences(model, each) for each in (x, moved, saved))
    near, far = (float(attack.ball.distance(x[None], each[None])) for each in (moved, saved))
    return PerturbedImage(x, moved, saved, before, after, after_saved, near, far)


def as_seen(content: bytes, name: str, channels: int, size: tuple[int, int] | None) -> tuple[Tensor, list[str]]:
    """The image in ``content`` as the model takes it, and what was changed for that.

    Args:
        name: name of the image in error messages.
        channels: 1 or 3.
        size: (H, W) of the model's images; None to keep the image's size.

    Returns:
        The image, (C, H, W) float32 in [0, 1], and a phrase per change.

    Raises:
        ValueError: it is no image, or cannot be converted to these channels or this size.
    """
    if channels not in (1, 3):
        raise ValueError(f"the model takes {channels} channels: only images of 1 or 3 can be read from a file")
    colours = decode_picture(content, name, 3)
    changes, resize = [], None
    if size is not None and colours.shape[1:] != size:
        if size[0] != size[1]:
            raise ValueError(f"{name}: has {_size(colours.shape[1:])} pixels, the model takes {_size(size)}")
        resize = size[0]
        shape = "" if colours.shape[1] == colours.shape[2] else ", the middle of the longer side"
        changes.append(f"resized from {_size(colours.shape[1:])} to {_size(size)} pixels{shape}")
    if channels == 1 and (colours != colours[:1]).any():
        changes.append("colours to grey")
    done: Counter[str] = Counter()
    pixels = torch.from_numpy(decode_picture(content, name, channels, resize, done).copy())
    words = {TRANSPARENT: "put on white", TURNED: "turned upright", DEEP: "16 bits to 8", FRAMES: "the first frame"}
    changes = [*(word for change, word in words.items() if done[change]), *changes]
    return pixels.float() / 255, changes


def class_number(text: str, classes: Sequence[str], option: str) -> int:
    """The number of the class that ``text`` means, by name (in any case if unambiguous) or number from 0.

    Raises:
        ValueError: there is no such class; the message has ``option`` and the nearest name.
    """
    names = [name.lower() for name in classes]
    if text in classes:
        return list(classes).index(text)
    if names.count(text.lower()) == 1:
        return names.index(text.lower())
    if text.isascii() and text.isdigit() and int(text) < len(classes):
        return int(text)
    near = difflib.get_close_matches(text.lower(), names, n=1)
    hint = f" (did you mean {classes[names.index(near[0])]}?)" if near else ""
    known = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    raise ValueError(f"{option}: no class {text!r}{hint}; there are {known}, or numbers 0 .. {len(classes) - 1}")


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
