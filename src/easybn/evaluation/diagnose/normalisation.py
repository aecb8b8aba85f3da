"""Inputs that seem normalised twice, or not at all: would the model rather see them otherwise?"""

from collections.abc import Iterator

from torch import Tensor

from .finding import Finding, share
from .paired import SIGNIFICANT, mcnemar
from .subject import Subject

GAIN = 0.02
"""Points of accuracy that another scaling must gain, beside being significant (``SIGNIFICANT``)."""
DARK = 2 / 255
"""If no pixel is brighter than that, the images were divided by 255 twice."""
LEAST_STD = 1e-3
"""Channels are not divided by less."""


def normalisation(subject: Subject) -> list[Finding]:
    """Clean accuracy on the images as given against that on the images scaled otherwise, paired."""
    x, y = subject.x, subject.intended  # labels in another order are told by their own check
    right = subject.logits.argmax(1) == y
    mean, std = _statistics(x)
    channels = f"channels have means {_short(mean)} and deviations {_short(std)}"
    if float(x.max()) <= DARK:
        size = f"no pixel exceeds {float(x.max()):.2g}; {channels}"
        return [_finding("the images are nearly black", size, "pass images in [0, 1]: divide 0..255 by 255 once")]
    best, told = GAIN, None
    for name, remedy, other in _alternatives(subject, mean, std):
        also = subject.right(other, y)
        gained, lost = int((also & ~right).sum()), int((right & ~also).sum())
        gain = (gained - lost) / subject.n
        if gain > best and (p := mcnemar(lost, gained)) < SIGNIFICANT:
            size = (
                f"{share(int(right.sum()), subject.n)} right as given, {share(int(also.sum()), subject.n)} "
                f"{name} (p = {p:.1g}); {channels}"
            )
            best, told = gain, _finding(f"the model does better on images {name}", size, remedy)
    if told:
        return [told]
    size = f"{share(int(right.sum()), subject.n)} right, and no more by {GAIN:.0%} under any other scaling; {channels}"
    return [Finding("normalisation", "ok", "the images suit the model as they are", size)]


def _finding(what: str, size: str, remedy: str) -> Finding:
    why = "the model is not shown what it was trained on, so that neither accuracy nor eps means what it says"
    return Finding("normalisation", "warning", what, size, why, remedy)


def _alternatives(subject: Subject, mean: Tensor, std: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Other scalings of the images: in words, what to do if the model likes them better, and the images."""
    x = subject.x
    within = "put the missing normalisation into the model as its first layer (easybn.models.Normalise)"
    yield "normalised by their mean and deviation", within, (x - mean) / std.clamp(min=LEAST_STD)
    yield "scaled to -1 .. 1", within, 2 * x - 1
    yield "scaled to 0 .. 255", "let the model multiply its input by 255", 255 * x
    twice = "normalise once: leave out the model's normalisation, or that of the data"
    inside = _inside(subject)
    for m, s in [inside] if inside else [(mean, std)]:
        yield "with a normalisation undone", twice, x * s.to(x) + m.to(x)


def _inside(subject: Subject) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of a normalising layer of the model, which call them so nearly everywhere."""
    for module in subject.ready.model.modules():
        mean, std = getattr(module, "mean", None), getattr(module, "std", None)
        if isinstance(mean, Tensor) and isinstance(std, Tensor) and mean.numel() == std.numel() == subject.x.shape[1]:
            shape = (1, -1, *[1] * (subject.x.dim() - 2))
            return mean.detach().reshape(shape), std.detach().reshape(shape)
    return None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, shaped to broadcast; of all values where images are vectors."""
    axes = [0, *range(2, x.dim())] if x.dim() > 2 else [0, 1]
    return x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)


def _short(values: Tensor) -> str:
    return ", ".join(f"{value:.3f}" for value in values.flatten().tolist()[:4])
