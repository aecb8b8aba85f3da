"""What the evaluation attacks have in common: begin, look, move, each row by itself.

A store of verdicts goes on with what is in it only under the same ``easybn.evaluation.resumable.VERSION``. No test can
see that it is due; it is to be raised with every change after which, for the same model, points, settings and seed,

- any try may end otherwise: another image, iteration, margin or number of passes. That is another formula, constant,
  default that is no field of the attack, order of floating-point operations, or stream of random numbers; another
  order or make-up of batches (``drive``, ``queue``); another rule of what counts as fallen (``judge``, ``verdict``);
- or a saved state no longer fits: a column of ``Tracks`` or an entry of ``Drive``'s state is new, gone or renamed,
  or means something else.

Not with a new attack or field (it is in the manifest by its name), nor with the preparation of the model, which the
manifest has as text: there the text is to change.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import Ball, Linf, per_sample
from .prepare import Prepared

# Tries under way: a row each, whatever its point, its target and its age.


class Tracks(dict[str, Tensor]):
    """Columns of B rows by name, one row a *try* (a point, a target class, a restart).

    The columns that every attack finds there:

    ============  ==================  ==========================================================
    ``row``       int64 (B,)          position of the point among those attacked
    ``label``     int64 (B,)          its true class
    ``target``    int64 (B,)          the class to move to; -1 for none
    ``number``    int64 (B,)          which try of its point this is
    ``key``       int64 (B,)          key of its random streams (:class:`~easybn.keyed_random.Noise`)
    ``age``       int64 (B,)          moves made
    ``centre``    (B, ...)            original image
    ``point``     (B, ...)            image that the model sees next
    ``reach``     float64 (B,)        distance of the nearest adversarial image found; infinite if none
    ``margin``    float64 (B,)        by how much the original model is wrong there; NaN if none
    ``forwards``  int64 (B,)          forward passes spent on it
    ``backwards`` int64 (B,)          backward passes spent on it
    ``non_finite`` int64 (B,)         gradients that were NaN or infinite somewhere
    ``zero_gradients`` int64 (B,)     gradients that were zero everywhere
    ============  ==================  ==========================================================

    An attack adds columns of its own; they are kept and dropped with the rows.
    """

    @classmethod
    def begun(cls, row: Tensor, label: Tensor, target: Tensor, number: Tensor, key: Tensor, centre: Tensor) -> "Tracks":
        """Tries about to begin, on the device of ``centre``, with all columns of the table above."""
        device = centre.device
        zeros = torch.zeros(len(row), dtype=torch.int64, device=device)
        far = torch.full((len(row),), torch.inf, dtype=torch.float64, device=device)
        names = {"row": row, "label": label, "target": target, "number": number, "key": key}
        counts = ("age", "forwards", "backwards", "non_finite", "zero_gradients")
        return cls(
            {name: column.to(device) for name, column in names.items()},
            centre=centre, point=centre, reach=far, margin=far * torch.nan, **dict.fromkeys(counts, zeros),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """B; 0 as long as there are no columns."""
        return len(self["row"]) if self else 0

    def those(self, mask: Tensor) -> "Tracks":
        """The rows where ``mask`` (bool, (B,)) is true."""
        return Tracks({name: column[mask] for name, column in self.items()})

    def joined_by(self, others: "Tracks") -> "Tracks":
        """These rows and then the others, which must have the same columns."""
        if not self.count:
            return others
        return Tracks({name: torch.cat((column, others[name])) for name, column in self.items()})

    def put(self, mask: Tensor, **values: Tensor) -> None:
        """In the rows where ``mask`` is true, these values (of as many rows) in the place of the columns' own."""
        every = bool(mask.all())
        for name, value in values.items():
            if every:
                self[name] = value.to(self[name].dtype)
                continue
            self[name] = self[name].clone()
            self[name][mask] = value.to(self[name].dtype)

    def spent(self, mask: Tensor | None = None, *, forwards: int = 0, backwards: int = 0) -> None:
        """Count passes of the model over all rows, or over those of ``mask``."""
        rows = 1 if mask is None else mask.long()
        self["forwards"] = self["forwards"] + forwards * rows
        self["backwards"] = self["backwards"] + backwards * rows


def stacked(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Columns of the parts one after the other; the parts have the same names."""
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


# When an attacked image counts as adversarial.

# Kernels round differently for batches of other sizes; a margin within this many units of rounding of the
# largest logit could change sign in the next forward pass.
ROUNDING_UNITS = 32


def fooled(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which images are misclassified, and which of these by more than rounding could explain.

    Logits that say nothing (:func:`unanswered`) are misclassified: a model that breaks down on an image is not
    robust there. The reference implementation counts the class of the first NaN.

    Args:
        logits: (N, K), floating point.
        y: true classes, int64, shape (N,).

    Returns:
        Two bool tensors (N,), the second implying the first.
    """
    silent = unanswered(logits)
    wrong = (logits.argmax(1) != y) | silent
    unit = torch.finfo(logits.dtype).eps
    true = logits.gather(1, y[:, None])[:, 0]
    size = logits.abs()
    # a class that is masked by -inf has no rounding
    tolerance = ROUNDING_UNITS * unit * size.where(size.isfinite(), torch.zeros_like(size)).amax(1)
    return wrong, wrong & (silent | (logits.amax(1) - true > tolerance))


def unanswered(logits: Tensor) -> Tensor:
    """bool (N,): logits (N, K) that say nothing: NaN or +inf is among them, or all are -inf."""
    return ~logits.amax(1).isfinite()


def check_within(ball: Ball, images: Tensor, centre: Tensor) -> Tensor:
    """(N,) float64 distances of ``images`` from ``centre`` (both (N, ...)), once they are known to be allowed.

    Raises:
        RuntimeError: an image outside the ball or outside [0, 1]: a fault of an attack, whose verdicts are void.
    """
    distance = ball.distance(images, centre)
    if not len(images):
        return distance
    # a pixel of float32 rounds by 6e-8 at most, and the roundings of d pixels add up to its square root in l2
    slack = 1e-7 * math.sqrt(images[0].numel())
    low, high = (float(v) for v in images.aminmax())
    farthest = float(distance.max())
    if not (low >= 0 and high <= 1 and farthest <= float(ball.eps) + slack):
        raise RuntimeError(
            f"an attack left its ball: distance {farthest:g} for eps {float(ball.eps):g}, pixels {low:g} .. {high:g}"
        )
    return distance


# Where AutoAttack's gradient attacks start: at a fixed distance from the image, in a random direction.


def around(tracks: Tracks, ball: Ball, distance: float) -> Tensor:
    """(B, ...) images at ``distance`` from the original ones before they are clamped to [0, 1].

    As in the reference implementation: in l-infinity uniform numbers scaled so that the largest is ``distance``, in
    l2 normal numbers scaled to that length.
    """
    centre, noise = tracks["centre"], Noise(tracks["key"]).child("start")
    if isinstance(ball, Linf):
        offset = noise.uniform(*centre.shape[1:]).mul_(2).sub_(1)
        size = offset.flatten(1).abs().amax(1)
    else:
        offset = noise.normal(*centre.shape[1:])
        size = offset.flatten(1).norm(dim=1)
    offset = offset * per_sample(distance / (size + 1e-12), offset)
    return (centre + offset.to(centre.dtype)).clamp_(0, 1)


class Try(NamedTuple):
    """One try at a point.

    Args:
        target: 0 for none; 1 for the class that the clean image is most easily taken for, and so on.
        restart: number of the restart, from 0.
    """

    target: int = 0
    restart: int = 0


class Attack(ABC):
    """An iterative attack whose every row is a function of its own point, target and random stream alone.

    So a row that leaves or joins changes no other (but for the rounding of kernels), rows of all ages share a
    batch, and a run that was stopped goes on from its columns. An attack holds no state and touches neither
    the modes nor the weights of the model.

    Args of every attack:
        ball: where it looks, ``Linf(eps)`` or ``L2(eps)``.
    """

    ball: Ball
    bounded = True
    """Whether every point it looks at lies in its ball; if not, what it finds outside serves larger radii."""
    differentiates = True
    """Whether it takes gradients of the model."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As in tables and options: "apgd-ce"."""

    @property
    @abstractmethod
    def moves(self) -> int:
        """Moves of a try; it looks at one image more."""

    def tries(self, classes: int) -> list[Try]:
        """The tries at a point, in order, given the number of classes; a point leaves at its first success."""
        return [Try()]

    @abstractmethod
    def begin(self, tracks: Tracks) -> None:
        """Put the first image to look at in ``tracks["point"]``, and add the columns that the attack needs."""

    @abstractmethod
    def look(self, model: Prepared, tracks: Tracks) -> Tensor:
        """(B, K) logits, without a graph, of ``tracks["point"]``; gradients are left in columns."""

    @abstractmethod
    def move(self, model: Prepared, tracks: Tracks) -> None:
        """The next image to look at, for the rows that are still there."""


def look_ahead(model: Prepared, tracks: Tracks, moves: int, climb: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, K) logits of ``tracks["point"]``, by ``climb`` for the rows that will move once more.

    Args:
        moves: of a try; rows of that age are looked at for the last time, and need no gradient.
        climb: logits of the rows of a mask (bool, (B,)); it leaves their gradients in columns.
    """
    going = tracks["age"] < moves
    if going.all():
        return climb(going)
    tracks.spent(~going, forwards=1)
    with torch.no_grad():
        last = model(tracks["point"][~going])
    if not going.any():
        return last
    logits = last.new_empty(tracks.count, last.shape[1])
    logits[~going], logits[going] = last, climb(going).to(last.dtype)
    return logits


def targets(classes: int, most: int = 9) -> int:
    """How many target classes: ``most``, or all others if there are fewer."""
    return min(most, classes - 1)


def counted(tracks: Tracks, rows: Tensor, gradient: Tensor) -> Tensor:
    """(n, ...) gradients of the n rows of a mask, zero where any of it is NaN or infinite; either kind is counted."""
    largest = gradient.flatten(1).abs().amax(1)  # NaN where there is one
    finite = largest.isfinite()
    for name, kind in (("non_finite", ~finite), ("zero_gradients", largest == 0)):
        if kind.any():
            tracks[name] = tracks[name].index_add(0, rows.nonzero()[:, 0], kind.long())
    return gradient if finite.all() else gradient.where(per_sample(finite, gradient), torch.zeros_like(gradient))
