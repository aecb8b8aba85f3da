"""What an attack is: three methods on a batch of attempts, and when an attacked image counts as a success.

An attack is one class. It says how an attempt starts (``init``), how the current images are classified
(``evaluate``) and how they change (``step``); :class:`~easybn.attacks.runner.AttackRunner` does the rest: batches,
success checks, verification by the original model, resumption.

A store of verdicts is continued only under the same ``easybn.evaluation.resumable.VERSION``. No test can tell that it
must be raised; raise it with every change after which, for the same model, points, settings and seed, any attempt may
end otherwise (another image, iteration, margin or number of passes). That is another formula, constant, default that
is no field of the attack, order of floating-point operations, or stream of random numbers; another order or
composition of batches (``AttackRunner``, ``PendingAttempts``); another rule of what counts as a success
(``check_success``, ``misclassified``). If only the saved state of a half-finished attack no longer fits (a column of
``AttackState`` or an entry of the runner's state is new, gone or renamed), raise
``easybn.attacks.runner.STATE_VERSION``: half-finished chunks are then redone. Neither is due for a new attack or field
(it is in the manifest by its name), nor for another preparation of the model, which the manifest has as text: there
the text changes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import Ball, Linf, l2_norm, per_sample, rounding
from ..rows import check_colours
from .attack_mode import TargetModel
from .model_call import ROUNDING_UNITS

Variants = Mapping[str, Mapping[str, Any]]
"""Fields of an attack's class by the name that lists have for it with these fields."""


class Attempt(NamedTuple):
    """One attempt at a point.

    Args:
        target: rank of the target class: 0 for none; 1 for the class that the clean image is most easily taken for,
            and so on.
        restart: number of the restart, from 0.
    """

    target: int = 0
    restart: int = 0


class AttackState(dict[str, Tensor]):
    """Columns of B rows by name; one row per attempt (a point, a target class, a restart) that is running.

    The columns that every attack finds there:

    =================  ==================  =========================================================
    ``row``            int64 (B,)          position of the point among those attacked
    ``label``          int64 (B,)          its true class
    ``target``         int64 (B,)          the target class; -1 for none
    ``attempt``        int64 (B,)          which attempt at its point this is, from 0
    ``key``            int64 (B,)          key of its random streams (:class:`~easybn.keyed_random.Noise`)
    ``iteration``      int64 (B,)          steps taken
    ``original``       (B, ...)            original image
    ``image``          (B, ...)            image that the model sees next
    ``best_distance``  float64 (B,)        distance of the best adversarial image found; infinite if none
    ``margin``         float64 (B,)        by how much the original model is wrong there; without such an image NaN,
                                           or the largest margin that the attempt has seen, not above 0
    ``forwards``       int64 (B,)          forward passes spent on it
    ``backwards``      int64 (B,)          backward passes spent on it
    ``non_finite``     int64 (B,)          gradients with a NaN or infinite entry
    ``zero_gradients`` int64 (B,)          gradients that were zero everywhere
    =================  ==================  =========================================================

    An attack adds columns of its own (tensors of B rows); they are kept, saved and dropped with the rows.
    """

    @classmethod
    def create(
        cls, row: Tensor, label: Tensor, target: Tensor, attempt: Tensor, key: Tensor, original: Tensor
    ) -> "AttackState":
        """Attempts about to start, on the device of ``original``, with all columns of the table above."""
        device = original.device
        zeros = torch.zeros(len(row), dtype=torch.int64, device=device)
        infinite = torch.full((len(row),), torch.inf, dtype=torch.float64, device=device)
        given = {"row": row, "label": label, "target": target, "attempt": attempt, "key": key}
        counts = ("iteration", "forwards", "backwards", "non_finite", "zero_gradients")
        return cls(
            {name: column.to(device) for name, column in given.items()},
            original=original, image=original, best_distance=infinite, margin=infinite * torch.nan,
            **dict.fromkeys(counts, zeros),
        )  # fmt: skip

    @property
    def count(self) -> int:
        """B; 0 as long as there are no columns."""
        return len(self["row"]) if self else 0

    def select(self, mask: Tensor) -> "AttackState":
        """The rows where ``mask`` (bool, (B,)) is true."""
        return AttackState({name: column[mask] for name, column in self.items()})

    def append(self, others: "AttackState") -> "AttackState":
        """These rows and then the others, which must have the same columns."""
        if not self.count:
            return others
        return AttackState({name: torch.cat((column, others[name])) for name, column in self.items()})

    def update_rows(self, mask: Tensor, **values: Tensor) -> None:
        """Overwrite columns in the rows where ``mask`` is true by ``values``, which have as many rows."""
        all_rows = bool(mask.all())
        for name, value in values.items():
            if all_rows:
                self[name] = value.to(self[name].dtype)
                continue
            self[name] = self[name].clone()
            self[name][mask] = value.to(self[name].dtype)

    def count_passes(self, mask: Tensor | None = None, *, forwards: int = 0, backwards: int = 0) -> None:
        """Count passes of the model over all rows, or over those of ``mask``."""
        rows = 1 if mask is None else mask.long()
        self["forwards"] = self["forwards"] + forwards * rows
        self["backwards"] = self["backwards"] + backwards * rows


class Attack(ABC):
    """An iterative attack in which every row depends on its own point, target and random stream alone.

    So a row that leaves or joins the batch changes no other (except for the rounding of kernels), rows of different
    iterations share a batch, and an interrupted run continues from its columns. An attack holds no state of its own
    and touches neither the modes nor the weights of the model. Subclasses are frozen dataclasses: their fields are the
    settings, and are stored with the verdicts. A new one is a file in this folder or anywhere (examples/my_attack.py),
    passed as ``easybn.evaluate(attacks=MyAttack(Linf(8 / 255)))`` or ``--attacks my_attack.py:MyAttack``.

    Args of every attack:
        ball: where it searches, ``Linf(eps)`` or ``L2(eps)``. At other radii of an evaluation the attack is copied with
            another ball.
    """

    ball: Ball
    bounded: ClassVar[bool] = True
    """Whether it searches in its ball. If not, it searches for the nearest adversarial image, adds
    the columns ``outside_distance`` and ``outside_image`` as FAB does, and one search counts for all radii."""
    leaves_ball: ClassVar[bool] = False
    """Whether some images on the way of a bounded attack lie outside its ball: these count at no radius."""
    uses_gradient: ClassVar[bool] = True
    """Whether it takes gradients of the model."""
    variants: ClassVar[Variants] = {}
    """Of the package's own attacks: the names under which they are listed, and the fields that belong to each."""
    label: ClassVar[str] = ""
    """Its name in the report, by default ``name``."""
    colour: ClassVar[tuple[str, str] | None] = None
    """In the report, on light and on dark pages; by default one that is free."""
    order: ClassVar[int] = 100
    """In lists and in the report smaller comes first; the package's own are below 100."""

    def __init_subclass__(cls) -> None:
        """ValueError unless ``colour`` is a pair of colours."""
        super().__init_subclass__()
        check_colours(f"{cls.__name__}.colour", cls.colour)

    def appearance(self) -> dict[str, Any]:
        """How the report shows this attack: label, colour and order, and whether it is bounded by eps."""
        return {
            "label": self.label or self.name,
            "colour": None if self.colour is None else list(self.colour),
            "order": self.order,
            "bounded": self.bounded,
        }

    @property
    def min_classes(self) -> int:
        """Classes that its loss needs to be as it is defined."""
        return 2

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in stored rows and options, such as "apgd-ce"; letters, digits and "-"."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps of an attempt, at most; it evaluates one image more."""

    @property
    def usual_steps(self) -> int:
        """Steps of most attempts that do not succeed; fewer than ``steps`` for an attack that may end early.

        Passes beside those of its steps count as the steps that take as long.
        """
        return self.steps

    @property
    def least_passes(self) -> tuple[int, int]:
        """Forward and backward passes of an attempt without success, at least."""
        return self.steps + 1, self.steps * self.uses_gradient

    def attempts(self, classes: int) -> list[Attempt]:
        """The attempts at a point, in order, given the number of classes; a point is done at its first success."""
        return [Attempt()]

    def ended(self, state: AttackState) -> Tensor:
        """bool (B,): the rows whose image just evaluated was their last: by default those at their last step."""
        return state["iteration"] >= self.steps

    @abstractmethod
    def init(self, state: AttackState) -> None:
        """Put the first image to evaluate in ``state["image"]``, and add the columns that the attack needs."""

    @abstractmethod
    def evaluate(self, model: TargetModel, state: AttackState) -> Tensor:
        """(B, K) logits, without a graph, of ``state["image"]``; gradients are left in columns."""

    @abstractmethod
    def step(self, model: TargetModel, state: AttackState) -> None:
        """Put the next image to evaluate in ``state["image"]``, for the rows that are still running."""


# Parts that attacks share.


def random_start(state: AttackState, ball: Ball, distance: float) -> Tensor:
    """(B, ...) images in a random direction at ``distance`` from the original ones, then clamped to [0, 1].

    As in the reference implementation of AutoAttack: in l-infinity uniform numbers scaled so that the largest is
    ``distance``, in l2 normal numbers scaled to that length.
    """
    original, noise = state["original"], Noise(state["key"]).child("start")
    if isinstance(ball, Linf):
        offset = noise.uniform(*original.shape[1:]).mul_(2).sub_(1)
        size = offset.flatten(1).abs().amax(1)
    else:
        offset = noise.normal(*original.shape[1:])
        size = l2_norm(offset)
    offset = offset * per_sample(distance / (size + 1e-12), offset)
    return (original + offset.to(original.dtype)).clamp_(0, 1)


def evaluate_with_gradient(
    model: TargetModel, state: AttackState, steps: int, differentiate: Callable[[Tensor], Tensor]
) -> Tensor:
    """(B, K) logits of ``state["image"]``; by ``differentiate`` for the rows that will take another step.

    Args:
        steps: of an attempt; rows of that iteration are evaluated for the last time, and need no gradient.
        differentiate: logits of the rows of a mask (bool, (B,)); it leaves their gradients in columns.
    """
    return evaluate_where(model, state, state["iteration"] < steps, differentiate)


def evaluate_where(
    model: TargetModel, state: AttackState, continues: Tensor, differentiate: Callable[[Tensor], Tensor]
) -> Tensor:
    """(B, K) logits of ``state["image"]``; by ``differentiate`` for the rows of ``continues`` (bool (B,)) alone."""
    if continues.all():
        return differentiate(continues)
    state.count_passes(~continues, forwards=1)
    with torch.no_grad():
        last_logits = model(state["image"][~continues])
    if not continues.any():
        return last_logits
    logits = last_logits.new_empty(state.count, last_logits.shape[1])
    logits[~continues], logits[continues] = last_logits, differentiate(continues).to(last_logits.dtype)
    return logits


def finite_gradient(state: AttackState, mask: Tensor, gradient: Tensor) -> Tensor:
    """``gradient`` (n, ...) of the n rows of a mask, zero for a row with a NaN or infinite entry.

    Such rows are counted in column ``non_finite``, rows that are zero everywhere in ``zero_gradients``.
    """
    largest = gradient.flatten(1).abs().amax(1)  # NaN where there is one
    finite = largest.isfinite()
    for name, affected in (("non_finite", ~finite), ("zero_gradients", largest == 0)):
        if affected.any():
            state[name] = state[name].index_add(0, mask.nonzero()[:, 0], affected.long())
    return gradient if finite.all() else gradient.where(per_sample(finite, gradient), torch.zeros_like(gradient))


def target_count(classes: int, most: int = 9) -> int:
    """Number of target classes: ``most``, or all other classes if there are fewer."""
    return min(most, classes - 1)


def concatenate(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all parts, one after the other; the parts have the same columns."""
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}


# When an attacked image counts as adversarial.


def misclassified(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which images are misclassified, and which of these by more than rounding could explain.

    Images with :func:`invalid_logits` are misclassified: a model that breaks down on an image is not robust there.
    The reference implementation counts the class of the first NaN.

    Args:
        logits: (N, K), floating point.
        y: true classes, int64, shape (N,).

    Returns:
        Two bool tensors (N,), the second implying the first.
    """
    invalid = invalid_logits(logits)
    wrong = (logits.argmax(1) != y) | invalid
    unit = torch.finfo(logits.dtype).eps
    true_logit = logits.gather(1, y[:, None])[:, 0]
    size = logits.abs()
    # a class that is masked by -inf has no rounding
    tolerance = ROUNDING_UNITS * unit * size.where(size.isfinite(), torch.zeros_like(size)).amax(1)
    return wrong, wrong & (invalid | (logits.amax(1) - true_logit > tolerance))


def invalid_logits(logits: Tensor) -> Tensor:
    """bool (N,): logits (N, K) that name no class: NaN or +inf is among them, or all are -inf."""
    return ~logits.amax(1).isfinite()


def check_in_ball(ball: Ball, images: Tensor, original: Tensor) -> Tensor:
    """(N,) float64 distances of ``images`` from ``original`` (both (N, ...)), once they are known to be allowed.

    Raises:
        RuntimeError: an image outside the ball or outside [0, 1]: a bug in an attack, whose verdicts are void.
    """
    distance = ball.distance(images, original)
    if not len(images):
        return distance
    low, high = (float(v) for v in images.aminmax())
    farthest = float(distance.max())
    if not (low >= 0 and high <= 1 and farthest <= float(ball.eps) + rounding(images.shape[1:])):
        raise RuntimeError(
            f"an attack left its ball: distance {farthest:g} for eps {float(ball.eps):g}, pixels {low:g} .. {high:g}"
        )
    return distance
