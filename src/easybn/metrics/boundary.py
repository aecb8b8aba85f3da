"""The decision boundary around test images: how far it is along paths, and what lies between two images.

Along a path that starts at an image the answer is tried at fixed steps up to a range, and the first step with a wrong
answer is halved down to the change. So a distance is that of an image that *is* misclassified: an upper bound of the
distance of the nearest one, never a bound of robustness; a class change and back within one step goes unseen. An image
whose path has no change within the range is "not reached" (censored): it counts as larger than every distance found,
medians and shares are stated, and no mean over those that were reached.

Everything is measured in [0, 1]: the paths are straight lines whose pixels stop at black and white, and distances are
those of the images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..attacks.losses import margin
from ..keyed_random import Noise
from ..modes import evaluating
from ..perturb.ball import L2, Ball, Linf, per_sample
from ..perturb.eps import parse_eps
from ..progress import OnProgress, silent
from ..stats import accuracy_interval
from .instrument import Instrument, Measured, Plot, Subject
from .intervals import mean_interval, median_of
from .linearity import value_and_gradient

# Paths: straight lines within [0, 1].


def random_direction(x: Tensor, ball: Ball, noise: Noise) -> Tensor:
    """(N, ...) directions of norm 1: every pixel up or down in l-infinity, uniform on the sphere in l2."""
    return ball.steepest(noise.normal(*x.shape[1:]).to(x))


def along(x: Tensor, direction: Tensor, distance: Tensor, ball: Ball) -> Tensor:
    """The images on the paths clamp(x + t direction), t >= 0, at the given distances from x; or the paths' ends.

    Args:
        x: images in [0, 1], (N, ...).
        direction: (N, ...), of norm 1; one of zeros has a path that stays.
        distance: (N,) float64, in the ball's norm.
    """
    wide, by = x.double(), direction.double()
    room = torch.where(by > 0, 1 - wide, wide)  # how far each pixel may go
    t, speed = distance.clone(), by.abs()
    if not isinstance(ball, Linf):  # pixels that have stopped leave the rest of the distance to the others
        while True:
            stopped = speed * per_sample(t, speed) >= room
            rest = (distance.square() - (room * stopped).square().flatten(1).sum(1)).clamp(min=0)
            moving = (speed * ~stopped).square().flatten(1).sum(1)
            # at the end of a path nothing moves; the distance grows with t, which therefore never falls
            longer = torch.where(moving > 0, (rest / moving.clamp(min=1e-300)).sqrt(), t)
            if bool((longer <= t * (1 + 1e-12)).all()):
                break
            t = torch.maximum(t, longer)
    step = torch.minimum(speed * per_sample(t, speed), room)
    return (wide + step * by.sign()).clamp_(0, 1).to(x.dtype)


@torch.no_grad()
def distance_to_change(
    model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, ball: Ball, grid: int, halvings: int
) -> Tensor:
    """(N,) float64: the distance along a path of the first image found that is not classified as ``y``.

    0 where the image itself is misclassified, as robust accuracy counts it; infinite where nothing was found.

    Args:
        model: from images in [0, 1] to logits.
        x, y: images (N, ...) and their true classes (N,).
        direction: of the paths, see :func:`along`.
        ball: its norm measures distances, and its eps is the range of the search.
        grid: number of steps from the image to the range.
        halvings: of the step in which the change was found: a distance is too large by at most
            range / grid / 2^halvings, if the class changes once in it.
    """
    step = float(ball.eps) / grid
    high = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def moved(rows: Tensor, distance: Tensor) -> Tensor:
        return along(x[rows], direction[rows], distance, ball)

    def wrong(rows: Tensor, distance: Tensor) -> Tensor:
        return model(moved(rows, distance)).argmax(1) != y[rows]

    left = torch.arange(len(x), device=x.device)
    for number in range(grid + 1):
        at = torch.full((len(left),), number * step, dtype=torch.float64, device=x.device)
        hit = wrong(left, at)
        high[left[hit]] = number * step
        left = left[~hit]
        if not len(left):
            break
    rows = ((high > 0) & high.isfinite()).nonzero()[:, 0]
    upper = high[rows]
    lower = upper - step
    for _ in range(halvings if len(rows) else 0):
        middle = (lower + upper) / 2
        hit = wrong(rows, middle)
        lower, upper = torch.where(hit, lower, middle), torch.where(hit, middle, upper)
    high[rows] = ball.distance(moved(rows, upper), x[rows])  # at the end of a path less than was asked for
    return high


# Segments from one image to another.


@torch.no_grad()
def changes_between(model: nn.Module, a: Tensor, b: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """How often the predicted class changes on the segments from images ``a`` to images ``b``, both (N, ...).

    Args:
        steps: the segment is seen at ``steps + 1`` points, its ends among them: what changes and changes back between
            two of them is not counted.

    Returns:
        (N,) int64, the number of changes; and (N,) bool, whether the ends are of different predicted classes, so that
        there must be at least one.
    """
    answers = [model(torch.lerp(a, b, number / steps)).argmax(1) for number in range(steps + 1)]
    seen = torch.stack(answers)
    return (seen[1:] != seen[:-1]).sum(0), seen[0] != seen[-1]


def partners(y: Tensor, noise: Noise, same: bool) -> Tensor:
    """(N,) int64: for each image the row of another one drawn at random, of the same class or of a different one.

    -1 where there is none.

    Args:
        y: classes, (N,).
        noise: a stream for each image.
    """
    fits = (y[:, None] == y) == same
    fits.fill_diagonal_(False)
    number = (noise.uniform()[:, None].double() * fits.sum(1, keepdim=True)).long()  # which of those that fit
    chosen = fits & (fits.cumsum(1) == number + 1)
    return torch.where(chosen.any(1), chosen.long().argmax(1), -1)


PATHS = ("easy", "random", "adversarial")
CLASSES = ("same", "different")


@dataclass(frozen=True)
class Boundary(Instrument):
    """Distances to the class change along paths, and class changes between images, of the deployed network.

    Misclassified images take part, with distance 0. The adversarial direction is the steepest one of the margin (the
    largest other logit minus the true one) at the image, the easy one its opposite. An image's distance in random
    directions is the median of ``directions`` of them (the lower one of an even number).

    Args:
        linf_range, l2_range: how far class changes are searched for.
        grid: number of steps of that search.
        halvings: of the step in which a change was found.
        directions: number of random directions per image and norm.
        segment: number of steps on a segment between two images.
    """

    linf_range: float = 0.5
    l2_range: float = 10.0
    grid: int = 100
    halvings: int = 8
    directions: int = 3
    segment: int = 64

    name: ClassVar[str] = "boundary"
    title: ClassVar[str] = "The decision boundary around test images"
    reads: ClassVar[str] = (
        "How far an image moves along a straight path, in [0, 1] pixel units, until it is misclassified: medians; 0 "
        "for one that is so already, the range of the search for one that is not reached. These are distances found, "
        "not bounds of robustness. Between two images: how often the class changes. Intervals are over images."
    )
    order: ClassVar[int] = 30
    images: ClassVar[int] = 200
    plots: ClassVar[Sequence[Plot]] = (
        Plot("distance_linf", "median distance to misclassification, l-infinity", "path", "distance", joined=False),
        Plot("distance_l2", "median distance to misclassification, l2", "path", "distance", joined=False),
        Plot("changes", "class changes on the segment between two images", "their classes", "number", joined=False),
        Plot("reached_linf", "misclassified within the range, l-infinity", "path", "images", percent=True, joined=False,
             folded=True),
        Plot("reached_l2", "misclassified within the range, l2", "path", "images", percent=True, joined=False,
             folded=True),
        Plot("direct", "segments with no more class changes than their ends need", "their classes", "segments",
             percent=True, joined=False, folded=True),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, low in (("grid", 1), ("halvings", 0), ("directions", 1), ("segment", 1)):
            if (value := getattr(self, name)) < low:
                raise ValueError(f"boundary: {name} must be at least {low}, got {value}")
        for name in ("linf_range", "l2_range"):
            parse_eps(getattr(self, name), f"boundary: {name}")
        _ = self.ranges  # which check the rest

    @property
    def ranges(self) -> dict[str, Ball]:
        """The range of the search, by the name of the norm."""
        return {"linf": Linf(self.linf_range), "l2": L2(self.l2_range)}

    def measure(self, subject: Subject, on_progress: OnProgress = silent) -> list[Measured]:
        done, total = 0, len(subject.ids) * (len(self.ranges) * (2 + self.directions) + 2)

        def advance(images: int, what: str) -> None:
            nonlocal done
            done += images
            on_progress(done, total, what)

        found: dict[tuple[str, str], list[Tensor]] = {}
        with evaluating(subject.model):
            for ids, x, y in subject.batches():
                for norm, ball in self.ranges.items():
                    for path, values in self._distances(subject, norm, ball, ids, x, y):
                        found.setdefault((norm, path), []).append(values.cpu())
                        advance(len(x) * (self.directions if path == "random" else 1), f"{path} paths, {norm}")
            segments = {kind: self._segments(subject, kind, advance) for kind in CLASSES}
        measured: list[Measured] = []
        for (norm, path), parts in found.items():
            measured += self._of_distances(norm, path, torch.cat(parts))
        for kind, (changes, needed) in segments.items():
            measured += _of_segments(kind, changes, needed)
        return measured

    def _distances(
        self, subject: Subject, norm: str, ball: Ball, ids: Tensor, x: Tensor, y: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """The distances (N,) of a batch on each of :data:`PATHS`."""

        def distance(direction: Tensor) -> Tensor:
            return distance_to_change(subject.model, x, y, direction, ball, self.grid, self.halvings)

        _, gradient = value_and_gradient(subject.model, x, y, margin)
        steepest = ball.steepest(gradient)
        yield "easy", distance(-steepest)
        noise = Noise.of(subject.seed, "boundary", ids).child(norm)
        draws = [distance(random_direction(x, ball, noise.numbered(number))) for number in range(self.directions)]
        yield "random", torch.stack(draws).median(0).values
        yield "adversarial", distance(steepest)

    def _segments(self, subject: Subject, kind: str, advance: Callable[[int, str], None]) -> tuple[Tensor, Tensor]:
        """Of segments between two images of one class, or of two: the changes (N,), and whether the ends need one."""
        labels = subject.split.labels[subject.ids]
        other = partners(labels, Noise.of(subject.seed, f"boundary: {kind}", subject.ids), kind == "same")
        parts: list[tuple[Tensor, Tensor]] = []
        for rows in torch.split(torch.arange(len(labels)), subject.batch_size):
            of = rows[other[rows] >= 0]
            if len(of):
                a, b = (subject.split.batch(subject.ids[ends])[0].to(subject.device) for ends in (of, other[of]))
                parts.append(changes_between(subject.model, a, b, self.segment))
            advance(len(rows), f"segments, {kind} class")
        if not parts:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        changes, needed = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
        return changes, needed

    def _of_distances(self, norm: str, path: str, values: Tensor) -> Iterator[Measured]:
        n, reached, limit = len(values), int(values.isfinite().sum()), float(self.ranges[norm].eps)
        detail = {"range": limit, "reached": reached, "misclassified": int((values == 0).sum())}
        depth, interval = PATHS.index(path), accuracy_interval(reached, n)
        yield Measured(f"distance_{norm}", "", path, depth, n, *median_of(values.clamp(max=limit)), detail)
        yield Measured(f"reached_{norm}", "", path, depth, n, reached / n, *interval, {"range": limit})


def _of_segments(kind: str, changes: Tensor, needed: Tensor) -> Iterator[Measured]:
    if n := len(changes):
        direct = int((changes <= needed).sum())
        yield Measured("changes", "", kind, CLASSES.index(kind), n, *mean_interval(changes))
        yield Measured("direct", "", kind, CLASSES.index(kind), n, direct / n, *accuracy_interval(direct, n))
