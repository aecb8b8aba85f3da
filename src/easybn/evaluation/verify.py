"""Adversarial images classified again: those of a store, and those on which two evaluations disagree."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..attacks.attack import Attack, misclassified
from ..attacks.attack_mode import attack_mode
from ..attacks.draws import DRAWS, vote
from ..attacks.losses import margin
from ..attacks.registry import ATTACKS, BALLS
from ..perturb.ball import Ball, rounding
from ..perturb.eps import format_eps
from ..progress import OnProgress, silent
from .record import CLEAN, Record, Stage, check_stage
from .result import Evaluation
from .resumable import STORED_NAMES, expected_chunks
from .store import Manifest, Store
from .store.stage_file import Images, StageFile
from .store.store import check_images

Logits = Callable[[Tensor], Tensor]


class Problem(NamedTuple):
    """Something that does not hold.

    Args:
        point: id of the point that it is about; None if it is about a stage, or the store.
        attack: of the stage that claims it; "" if it is about the store.
        eps: of that stage, in [0, 1] pixel units.
        what: what is wrong.
    """

    point: int | None
    attack: str
    eps: float
    what: str

    def __str__(self) -> str:
        if not self.attack:
            return self.what
        stage = Stage(self.attack, self.eps)
        return f"{stage}: {self.what}" if self.point is None else f"point {self.point}, {stage}: {self.what}"


def verify(
    store: Store,
    logits: Logits,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int = 256,
    progress: OnProgress = silent,
    randomised: bool = False,
) -> list[Problem]:
    """Classify every stored adversarial image again, and measure how far it is from its original.

    An image of a point that was broken must lie within the radius of its stage; one of a point that was not (found
    by a minimum-distance attack) within the distance that the record states. All must lie in [0, 1] and be
    misclassified. The clean stage is classified again too. Every stage must be there, be what was written, and follow
    from the manifest and the stages before it. A point that stands must have been attacked: by every attempt that the
    attack makes, with the passes that its steps take (of the package's own attacks). Of a job that keeps no images all
    is tested but the images.

    Args:
        store: of an evaluation that is finished.
        logits: of the original model in eval mode: images (n, ...) on the CPU, as stored or as in ``x``, to (n, K).
        x: images of the manifest's points in their order, in [0, 1], (N, ...).
        y: their classes, int64, (N,).
        batch_size: images a forward pass.
        progress: called after every stage.
        randomised: whether the model draws random numbers. Then an image holds unless most passes over it are clearly
            right (:mod:`easybn.attacks.draws`), and a clean verdict if one of several passes gives it.

    Returns:
        The problems; empty if everything holds. That a job keeps images and there is none to test is one.

    Raises:
        ValueError: another number of points, or a damaged note of the budget.
    """
    manifest = store.manifest
    if len(x) != len(manifest.points) or len(y) != len(x):
        raise ValueError(f"{len(x)} images and {len(y)} labels for {len(manifest.points)} points")
    subject = _Subject(store, logits, x, y, batch_size, randomised)
    expected, problems, checked = set(expected_chunks(store)), _strays(store), 0
    for chunk in range(manifest.chunks):
        before: Record | None = Record.joined([])  # None: not known, because of a stage that is missing or wrong
        for number, stage in enumerate(manifest.stages):
            file = store.file(chunk, number)
            found, wrong = _stage(store, file, before)
            if found is not None:
                before = None if before is None else Record.joined([before, found[0]])
                checked += 0 if found[1] is None else len(found[1][0])
                problems += subject.faults(stage, *found)
            else:
                before = None
                if wrong or chunk in expected:
                    what = wrong or "it is missing: is the evaluation finished, or was the file removed?"
                    problems.append(Problem(None, *stage, f"{file.path()}: {what}"))
            progress(chunk * len(manifest.stages) + number + 1, manifest.chunks * len(manifest.stages), "verify")
    if manifest.keep_images and not checked:
        what = f"{store.folder}: no adversarial image is there, so that none was tested"
        problems.append(Problem(None, "", 0.0, what))
    return problems


def _strays(store: Store) -> list[Problem]:
    """Files of chunks or stages that the manifest does not have."""
    manifest, stages = store.manifest, range(len(store.manifest.stages))
    known = {store.file(chunk, number).path().name for chunk in range(manifest.chunks) for number in stages}
    there = sorted(path for path in store.folder.glob("attempts/*.parquet") if path.name not in known)
    return [Problem(None, "", 0.0, f"{path}: the manifest has no such chunk or stage") for path in there]


def _stage(store: Store, file: StageFile, before: Record | None) -> tuple[tuple[Record, Images | None] | None, str]:
    """What is stored of a stage if it is as it should be, else None and what is wrong; "" if it is not there.

    Args:
        before: the record of the stages before it; None if that is not known.
    """
    manifest = store.manifest
    stage, points = manifest.stages[file.stage], manifest.points_of(file.chunk)
    try:
        if (found := file.load()) is None:
            return None, ""
        record, images = found
        attacked = np.intersect1d(record.point, points)
        check_stage(record, stage, attacked if before is None else manifest.to_attack(before, stage, points))
        beyond = record.success & (record.distance > record.eps * (1 + 1e-5) + 1e-6)
        if len(far := record.point[beyond]):
            raise ValueError(f"{len(far)} successes lie beyond the radius, such as that of point {far[0]}")
        if manifest.keep_images:
            if images is None:
                raise ValueError("its images are missing")
            check_images(record, stage, *images)
    except (ValueError, TypeError) as error:
        return None, str(error)
    return found, ""


@dataclass(frozen=True)
class _Subject:
    """What a store is tested against: arguments as of :func:`verify`."""

    store: Store
    logits: Logits
    x: Tensor
    y: Tensor
    batch_size: int
    randomised: bool

    @cached_property
    def row_of(self) -> dict[int, int]:
        return {point: row for row, point in enumerate(self.store.manifest.points)}

    @cached_property
    def clean(self) -> Tensor:
        """(N, K) logits of the images as they are."""
        with torch.no_grad():
            return torch.cat([self.logits(some).cpu() for some in torch.split(self.x, self.batch_size)])

    def faults(self, stage: Stage, record: Record, images: Images | None) -> list[Problem]:
        """What does not hold of a stage, point by point."""
        return [*self._spared(stage, record), *self._misjudged(stage, record, images)]

    def _spared(self, stage: Stage, record: Record) -> list[Problem]:
        """Points that count as robust though the attack has not done all that it does to such a point."""
        if stage == CLEAN or (attack := _own_attack(self.store.manifest, stage)) is None:
            return []
        problems, attempts = [], attack.attempts(self.clean.shape[1])
        stands = np.setdiff1d(record.point, record.point[record.success])
        forwards, backwards = attack.least_passes
        short = (record.forwards < forwards) | (record.backwards < backwards)
        for point in stands.tolist():
            rows = record.point == point
            # classes that are masked by -inf are no targets, but for the first of all
            targets = max(int((~self.clean[self.row_of[point]].isneginf()).sum()) - 1, 1)
            due = sum(attempt.target <= targets for attempt in attempts)
            if int(rows.sum()) < due:
                what = f"it counts as robust after {int(rows.sum())} of {due} attempts"
            elif short[rows].any():
                spent = f"{record.forwards[rows].min()} forward and {record.backwards[rows].min()} backward passes"
                what = f"it counts as robust after {spent}, and an attempt takes {forwards} and {backwards} or more"
            else:
                continue
            problems.append(Problem(point, *stage, what))
        return problems

    def _misjudged(self, stage: Stage, record: Record, images: Images | None) -> list[Problem]:
        """Clean verdicts and adversarial images that the model contradicts, and images out of their bounds."""
        if images is None and stage != CLEAN:
            return []
        ids = record.point if images is None or stage == CLEAN else images[0]
        rows = torch.tensor([self.row_of[int(point)] for point in ids], dtype=torch.int64)
        original, label = self.x[rows.to(self.x.device)].cpu(), self.y.cpu()[rows]
        if images is None or stage == CLEAN:
            changed = misclassified(self.clean[rows], label)[0].numpy() != record.success
            for _ in range(DRAWS[0] if self.randomised else 0):
                changed &= self._right(original, label) == record.success
            wrong = {"the clean image's verdict is another one than the stored": changed}
        elif images[1].shape != tuple(original.shape) and len(ids):
            what = f"images of shape {images[1].shape[1:]}, and the originals' is {tuple(original.shape[1:])}"
            return [Problem(None, *stage, what)]
        else:
            image = torch.from_numpy(images[1])
            ball = BALLS[self.store.manifest.norm](stage.eps)
            wrong = _outside(ball, image, original, _radii(record, ids))
            wrong["the image is classified correctly"] = self._right(image, label, by_vote=self.randomised)
        return [Problem(int(point), *stage, what) for what, bad in wrong.items() for point in ids[bad]]

    @torch.no_grad()
    def _right(self, image: Tensor, label: Tensor, by_vote: bool = False) -> NDArray[np.bool_]:
        """bool (n,), one batch after the other: classified correctly, of a randomised model's vote: clearly so."""
        right = np.empty(len(image), np.bool_)
        for start in range(0, len(image), self.batch_size):
            batch = slice(start, start + self.batch_size)
            if by_vote:
                right[batch] = vote(lambda some: self.logits(some).cpu(), image[batch], label[batch]).refuted.numpy()
            else:
                right[batch] = ~misclassified(self.logits(image[batch]).cpu(), label[batch])[0].numpy()
        return right


def _own_attack(manifest: Manifest, stage: Stage) -> Attack | None:
    """The attack of a stage with its stored fields; None if it is not one of the package's, or of other fields."""
    stored: Any = manifest.settings.get(f"{stage.attack} {stage.eps!r}")
    if stage.attack not in ATTACKS or not isinstance(stored, dict) or "class" in stored:
        return None
    names = {stored_name: name for name, stored_name in STORED_NAMES.items()}
    fields: dict[str, Any] = {names.get(name) or name: value for name, value in stored.items()}
    try:
        attack: Any = ATTACKS[stage.attack](BALLS[manifest.norm](stage.eps))
        return replace(attack, **fields)
    except (TypeError, ValueError):
        return None


def _radii(record: Record, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) how far each point's image may be: eps if the point was broken, else as far as the record says."""
    radius = dict.fromkeys(ids.tolist(), np.inf)
    allowed = np.where(record.success, record.eps, record.distance)
    for point, far in zip(record.point.tolist(), allowed.tolist(), strict=True):
        if point in radius:
            radius[point] = min(radius[point], far)
    return np.array([radius[point] for point in ids.tolist()])


def _outside(ball: Ball, image: Tensor, original: Tensor, radius: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    if not len(image):
        return {}
    pixels = image.flatten(1)
    within = ball.distance(image, original).numpy() <= radius + rounding(image.shape[1:])
    inside = ((pixels >= 0) & (pixels <= 1)).all(1).numpy()
    return {"the image is outside its ball": ~within, "the image is outside [0, 1]": ~inside}


# Two evaluations of the same points, say at two batch sizes: where they differ, and which of them is right.


@dataclass(frozen=True)
class Differing:
    """A point that is broken in one evaluation and robust in the other.

    Args:
        point: its id.
        eps: the radius.
        broken_in: 0 or 1, the evaluation that has an adversarial image of it.
        margin: of the model on that image, classified alone: largest other logit minus the true one.
    """

    point: int
    eps: float
    broken_in: int
    margin: float

    @property
    def holds(self) -> bool:
        """Whether the image fools the model, so that it is the other evaluation that missed it."""
        return not self.margin <= 0  # NaN: the model gives no answer

    def __str__(self) -> str:
        found = "first" if self.broken_in == 0 else "second"
        verb = "is" if self.holds else "is not"
        return (
            f"point {self.point} at {format_eps(self.eps, None)}: broken in the {found} evaluation only; its image "
            f"{verb} misclassified (margin {self.margin:.3g})"
        )


@dataclass(frozen=True)
class Agreement:
    """How far two evaluations agree.

    Args:
        share: of the verdicts at all common radii, in [0, 1].
        differing: the others, by radius and then in the order of the points.
    """

    share: float
    differing: list[Differing]


def agreement(model: nn.Module, y: Tensor, first: Evaluation, second: Evaluation) -> Agreement:
    """Compare verdicts; each point on which they differ is classified once more, on the image that was kept of it.

    Kernels round differently for other batch sizes, and a sign amplifies that: a point near its limit may be broken in
    one evaluation and not in the other. Its image says which is right.

    Args:
        model: of both, images (n, ...) to logits (n, K).
        y: the points' classes, int64 (N,), in the order in which they were given.
        first, second: of the same points, both with ``keep_images=True``.

    Raises:
        ValueError: of other points, without images, without a common radius.
    """
    radii = sorted(set(first.robust_at) & set(second.robust_at))
    if not torch.equal(first.points, second.points) or len(y) != len(first.points):
        raise ValueError("the evaluations are of other points: give both the same, and their labels")
    if not radii:
        raise ValueError("the evaluations have no radius in common")
    if not first.images_at or not second.images_at:
        raise ValueError("no images were kept: evaluate(..., keep_images=True)")
    differing = []
    with attack_mode(model, probe=first.images_at[radii[0]], fold=False) as ready, torch.no_grad():
        for eps in radii:
            for row in (first.robust_at[eps].cpu() != second.robust_at[eps].cpu()).nonzero()[:, 0].tolist():
                broken_in = int(bool(first.robust_at[eps][row]))
                image = (first, second)[broken_in].images_at[eps][row : row + 1]
                by = float(margin(ready.original(ready.load(image)).cpu(), y[row : row + 1].cpu().long()))
                differing.append(Differing(int(first.points[row]), eps, broken_in, by))
    return Agreement(1 - len(differing) / (len(y) * len(radii)), differing)
