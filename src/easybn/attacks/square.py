"""Square attack: random search with square windows, by the logits alone (Andriushchenko et al., ECCV 2020)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import L2, Ball, Linf, per_sample
from .attack import Attack, Tracks, Try, unanswered
from .losses import margin
from .prepare import Prepared

# The kernel that the Square attack adds in l2: two hills of opposite sign side by side (equation 2 of the paper).


def kernel(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2, side, side) of l2 norm 1: positive above and negative below; and the same turned, left and right."""
    hills = torch.cat((_hill(side // 2, side), -_hill(side - side // 2, side)))
    hills /= hills.norm()
    return torch.stack((hills, hills.T)).to(device, dtype)


def _hill(height: int, width: int) -> Tensor:
    """(height, width) float64 of l2 norm 1: concentric squares around the middle, the k-th adding 1 / k^2 within it."""
    rings = max(height // 2, width // 2) + 1
    within = torch.arange(1, rings + 1, dtype=torch.float64).pow(-2).flip(0).cumsum(0).flip(0)
    y, x = (torch.arange(size).sub(size // 2).abs() for size in (height, width))
    hill = within[torch.maximum(y[:, None], x)]
    return hill / hill.norm() if hill.numel() else hill


def planes(sides: tuple[int, ...], stage: Tensor, turned: Tensor, top: Tensor, left: Tensor, like: Tensor) -> Tensor:
    """(B, 1, H, W) in the type of ``like`` (B, C, H, W): each row's kernel where its window is, 0 elsewhere.

    Args:
        sides: of the window in each stage.
        stage: int64 (B,).
        turned: bool (B,), which of the two kernels.
        top: int64 (B,), first row of the window.
        left: int64 (B,), its first column.
    """
    height, width = like.shape[2:]
    table, rows = _framed(sides, width, like.dtype, like.device)
    y = (torch.arange(1, height + 1, device=top.device) - top[:, None]).clamp_(0, rows - 1)
    y += (2 * stage + turned)[:, None] * rows
    # whole rows of an image are copied: that is much faster than a gather of pixels
    return table[y, (width - left)[:, None]][:, None]


@cache
def _framed(sides: tuple[int, ...], width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
    """Both kernels of every stage, one after the other, with zeros around them, so that any image fits in.

    Returns:
        A view (rows, starts, width): ``[row, width - left]`` is a row of an image whose window begins at ``left``. And
        the number of rows of a kernel with its frame.
    """
    most = max(sides)
    table = torch.zeros(len(sides), 2, most + 2, width + most + width, dtype=dtype, device=device)
    for i, side in enumerate(sides):
        table[i, :, 1 : side + 1, width : width + side] = kernel(side, dtype, device)
    return table.flatten(0, 2).unfold(1, width, 1), most + 2


# The windows of the Square attack: how large they are, and where they lie in each row of a batch.

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def share(query: int, p_init: float) -> float:
    """The share p of the image that the window of a query covers; ``query`` counts from 0 (section 3.2)."""
    return p_init / 2 ** sum(query > last for last in HALVED_AFTER)


@cache
def sides(p_init: float, height: int, width: int, linf: bool) -> tuple[int, ...]:
    """Pixels of a side of the square window in each stage of the schedule, 10 whole numbers.

    In l2, whose kernel has a middle, they are odd and at least 3, but for images smaller than that.
    """
    out = []
    for first in (0, *(last + 1 for last in HALVED_AFTER)):
        wanted = round(math.sqrt(share(first, p_init) * height * width))
        wanted = max(wanted, 1) if linf else max(wanted, 3) | 1
        out.append(min(wanted, height, width))
    return tuple(out)


def stages(query: Tensor) -> Tensor:
    """(B,) int64, 0 .. 9: the stage of the schedule for numbers of queries (int64, (B,))."""
    return torch.bucketize(query, whole(HALVED_AFTER, query.device))


@cache
def whole(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as a tensor, made once for each device."""
    return torch.tensor(numbers, device=device)


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """-1 or 1 for each of the random ``bits`` (int64), in the type of ``like``."""
    return (bits < 0).to(like.dtype).mul_(-2).add_(1)


def corners(bits: Tensor, side: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """First rows and first columns of n windows an image, two int64 tensors (B, n).

    They are uniform in [0, size - side), or 0 for a window that fills the axis: as in the reference implementation a
    window never touches the far edge. In a single row of pixels it does, or its last pixel would never be changed.

    Args:
        bits: int64 (B, 2 n), random.
        side: int64 (B,), of the windows.
        like: (B, C, H, W), the images.
    """
    beyond = int(1 in like.shape[2:])
    low = bits.bitwise_and(0xFFFFFFFF).chunk(2, 1)
    top, left = (part * (size - side + beyond)[:, None] >> 32 for part, size in zip(low, like.shape[2:], strict=True))
    return top, left


def windows(top: Tensor, left: Tensor, side: Tensor, like: Tensor) -> Tensor:
    """(B, n, H, W) in the type of ``like`` (B, C, H, W): 1 inside a window, 0 outside it.

    Args:
        top: int64 (B, n), first rows.
        left: int64 (B, n), first columns.
        side: int64 (B,).
    """
    height, width = like.shape[2:]
    return _span(top, side, height, like)[..., None] * _span(left, side, width, like)[..., None, :]


def _span(first: Tensor, side: Tensor, size: int, like: Tensor) -> Tensor:
    at = torch.arange(size, device=first.device) - first[..., None]
    return ((at >= 0) & (at < side[:, None, None])).to(like.dtype)


# The images that the Square attack looks at in l-infinity: stripes, and squares of one sign each (section 3.3).


def stripes(centre: Tensor, eps: float, noise: Noise) -> Tensor:
    """(B, C, H, W) the first image: vertical stripes one pixel wide of -eps or eps, for each channel its own."""
    rows, channels, _, width = centre.shape
    sign = signs(noise.bits(channels * width), centre).view(rows, channels, 1, width)
    return (centre + eps * sign).clamp_(0, 1)


def flipped(best: Tensor, centre: Tensor, eps: float, sides: tuple[int, ...], stage: Tensor, noise: Noise) -> Tensor:
    """(B, C, H, W) ``best`` with one sign of the perturbation in a window, for each channel its own (algorithm 2).

    Args:
        best: (B, C, H, W) the best image so far.
        centre: the original one.
        eps: of the ball.
        sides: pixels of a side of the window in each stage of the schedule.
        stage: int64 (B,), which stage.
        noise: of this query.
    """
    side = whole(sides, best.device)[stage]
    bits = noise.bits(2 + best.shape[1])
    window = windows(*corners(bits[:, :2], side, best), side, best)
    # twice eps crosses the ball from wherever the pixel is
    point = torch.addcmul(best, signs(bits[:, 2:], best)[:, :, None, None] * (2 * eps), window)
    bound = centre - eps
    torch.maximum(point, bound, out=point)
    torch.minimum(point, torch.add(centre, eps, out=bound), out=point)
    return point.clamp_(0, 1)


# The images that the Square attack looks at in l2: a tiling, and mass moved between two windows (section 3.4).

TINY = 1e-12
TILES = 5  # a side


def tiles(centre: Tensor, eps: float, noise: Noise) -> Tensor:
    """(B, C, H, W) the first image: 5 x 5 kernels side by side, each turned and, for each channel, signed at random.

    Placed as in the reference implementation wherever that works: what it would put beyond the edge is cut off, and
    sides of less than 5 pixels have tiles of a pixel each.
    """
    rows, channels, height, width = centre.shape
    short = min(height, width)
    side = max(short // TILES, 1)
    first = max(short - side * TILES, 0) // 2
    down, across = height // side, width // side
    bits = noise.bits(down * across * (1 + channels)).view(rows, 1 + channels, down, across)
    # each pixel's tile, and where in the tile it is; pixels before the first and after the last tile are in none
    y, x = (torch.arange(size, device=centre.device) - first for size in (height, width))
    i, j = (y // side).clamp(0, down - 1)[:, None], (x // side).clamp(0, across - 1)
    flat, turned = kernel(side, centre.dtype, centre.device)[:, y[:, None] % side, x % side]
    covered = ((y >= 0) & (y < down * side))[:, None] & (x >= 0) & (x < across * side)
    pattern = torch.where((bits[:, :1] < 0)[:, :, i, j], turned, flat) * signs(bits[:, 1:], centre)[:, :, i, j]
    return _scaled(pattern * covered, centre, eps)


def displaced(best: Tensor, centre: Tensor, eps: float, sides: tuple[int, ...], stage: Tensor, noise: Noise) -> Tensor:
    """(B, C, H, W) ``best`` with the perturbation of one window spent in another one (algorithm 3).

    There a kernel is added to what the window has, and it all is scaled to what was in the two windows and what the
    image had not used of ``eps``.

    Args:
        best: (B, C, H, W) the best image so far.
        centre: the original one.
        eps: of the ball.
        sides: pixels of a side of the windows in each stage of the schedule.
        stage: int64 (B,), which stage.
        noise: of this query.
    """
    channels = best.shape[1]
    side = whole(sides, best.device)[stage]
    bits = noise.bits(5 + channels)
    top, left = corners(bits[:, :4], side, best)
    both = windows(top, left, side, best)
    gaining, losing = both[:, :1], both[:, 1:]
    added = planes(sides, stage, bits[:, 4] < 0, top[:, 0], left[:, 0], best)

    rest = best - centre
    unused = (eps**2 - _norm(rest, (1, 2, 3)) ** 2).clamp_(min=0)
    new = rest * torch.maximum(gaining, losing)
    rest -= new
    budget = (unused / channels + _norm(new, (2, 3)) ** 2).sqrt_()
    new *= gaining
    new /= _norm(new, (2, 3)) + TINY
    new.addcmul_(added, signs(bits[:, 5:], best)[:, :, None, None])
    return _scaled(rest.addcmul_(new, budget / (_norm(new, (2, 3)) + TINY)), centre, eps)


def _scaled(delta: Tensor, centre: Tensor, eps: float) -> Tensor:
    """The image at distance ``eps`` in the direction of ``delta`` (overwritten), but for pixels that leave [0, 1]."""
    return delta.mul_(eps / (_norm(delta, (1, 2, 3)) + TINY)).add_(centre).clamp_(0, 1)


def _norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True)


# Several queries of the Square attack in one pass, where few points are left.
#
# A query is judged against the best image so far, and most queries do not improve on it. So the next ones are drawn
# as if the present one failed, and looked at together with it: a pass over a few images takes hardly less time than
# one over some more. The first that improves is taken, those behind it are drawn again from the new image. The
# sequence of images is exactly that of one query at a time.

MEMORY = 0.02  # weight of a query in the running share of queries that improved, ``luck``
WASTE = 0.15  # how many passes may be spent on queries that are drawn again, as a share of all


def look_on(
    model: Prepared, tracks: Tracks, proposal: Callable[[Tracks, Tensor], Tensor], queries: int, most: int
) -> Tensor:
    """(B, K) logits of the image that was taken in each row; ``point``, ``loss``, ``age`` and ``luck`` are its own.

    Args:
        proposal: the image of a query, given its rows and its number, int64 (B,).
        queries: of a try.
        most: queries of a row in a pass.
    """
    rows, age = torch.arange(tracks.count, device=tracks["row"].device), tracks["age"]
    depth = depths(tracks["luck"], most).minimum(queries + 1 - age)
    parent = rows.repeat_interleave(depth)
    offset = torch.arange(len(parent), device=parent.device) - (depth.cumsum(0) - depth)[parent]
    image, later = tracks["point"][parent], offset > 0
    if later.any():
        names = ("key", "best", "centre")
        behind = Tracks({name: tracks[name][parent[later]] for name in names})
        # the image of age a is that of query a - 1: the pattern of the start is no query
        image[later] = proposal(behind, age[parent[later]] + offset[later] - 1)
    with torch.no_grad():
        logits = model(image)
    loss = margin(logits, tracks["label"][parent])
    # where the logits say nothing the loss is NaN and the image adversarial
    improves = (loss > tracks["best_loss"][parent]) | unanswered(logits)
    # the first that improves, or else the last of the row
    rank = torch.where(improves | (offset == depth[parent] - 1), offset, len(parent))
    taken = torch.full_like(age, len(parent)).scatter_reduce(0, parent, rank, "amin")
    chosen = depth.cumsum(0) - depth + taken
    tracks.spent(forwards=1)
    tracks["forwards"] = tracks["forwards"] + depth - 1
    tracks.update(point=image[chosen], loss=loss[chosen], age=age + taken)
    tracks["luck"] = tracks["luck"] * (1 - MEMORY) ** taken.double()  # those before it did not improve
    return logits[chosen]


def depths(luck: Tensor, most: int) -> Tensor:
    """int64 (B,) queries in a pass, 1 .. most: after an improvement half of those behind it are wasted on average."""
    return (1 + 2 * WASTE / luck.clamp(min=1e-9)).clamp(max=most).long()


@dataclass(frozen=True)
class Square(Attack):
    """Square attack on the margin loss, with the constants of AutoAttack (algorithm 1 of the paper).

    Every row draws windows of its own at every query, as in the paper; the reference implementation draws one
    for the whole batch, so that its verdict on a point depends on which others are still there.

    Points that are no images are searched as if they were: a vector is a row of pixels, so that its windows are single
    coordinates.

    Args:
        ball: ``Linf(eps)`` or ``L2(eps)``.
        queries: windows tried, one forward pass each; the first image of all, the pattern, is one pass more.
        p_init: share of the image that the first windows cover, in (0, 1]. It shrinks after fixed numbers of
            queries, which do not depend on ``queries`` (AutoAttack's schedule, not rescaled).
        restarts: tries from other patterns.
        beside: where fewer than half as many rows are busy, a pass looks at several queries of each
            (:mod:`~easybn.attacks.square`); 0 for one query a pass, always.

    Raises:
        ValueError: an argument out of its range.
    """

    ball: Ball
    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    beside: int = 32
    differentiates = False

    def __post_init__(self) -> None:
        if not isinstance(self.ball, (L2, Linf)):
            raise ValueError(f"Square knows the balls L2 and Linf, got {type(self.ball).__name__}")
        for name in ("queries", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is a share of the image, in (0, 1], got {self.p_init:g}")

    @property
    def name(self) -> str:
        return "square"

    @property
    def moves(self) -> int:
        return self.queries

    def tries(self, classes: int) -> list[Try]:
        return [Try(restart=restart) for restart in range(self.restarts)]

    def begin(self, tracks: Tracks) -> None:
        # windows run along the rows of an image: with the channels between its pixels all of this takes 7 times as long
        centre = tracks["centre"].contiguous()
        start = stripes if isinstance(self.ball, Linf) else tiles
        point = start(_images(centre), float(self.ball.eps), Noise(tracks["key"]).child("start")).view_as(centre)
        worst = torch.full((tracks.count,), -torch.inf, dtype=torch.float64, device=centre.device)
        luck = torch.ones_like(worst)
        tracks.update(centre=centre, point=point, best=point, loss=worst, best_loss=worst, luck=luck)

    def look(self, model: Prepared, tracks: Tracks) -> Tensor:
        if ahead := self._spare(tracks):
            return look_on(model, tracks, self._proposal, self.queries, ahead)
        with torch.no_grad():
            logits = model(tracks["point"])
        tracks.spent(forwards=1)
        tracks["loss"] = margin(logits, tracks["label"])
        return logits

    def move(self, model: Prepared, tracks: Tracks) -> None:
        # a first success improves on every image before it; one within rounding is then improved upon in its turn
        better = tracks["loss"] > tracks["best_loss"]  # never where the loss is NaN
        tracks["best"] = torch.where(per_sample(better, tracks["point"]), tracks["point"], tracks["best"])
        tracks["best_loss"] = torch.where(better, tracks["loss"], tracks["best_loss"])
        tracks["luck"] = tracks["luck"] + MEMORY * (better.double() - tracks["luck"])
        tracks["point"] = self._proposal(tracks, tracks["age"])

    def _spare(self, tracks: Tracks) -> int:
        """How many queries of each row a pass may hold."""
        return self.beside // tracks.count if self.beside >= 2 * tracks.count else 0

    def _proposal(self, tracks: Tracks, query: Tensor) -> Tensor:
        """(B, ...) the image of a query (int64, (B,)), given the best one so far."""
        best, centre, linf = _images(tracks["best"]), _images(tracks["centre"]), isinstance(self.ball, Linf)
        noise, stage = Noise(tracks["key"]).numbered(query), stages(query)
        sizes = sides(self.p_init, *best.shape[2:], linf)
        propose = flipped if linf else displaced
        return propose(best, centre, float(self.ball.eps), sizes, stage, noise).view_as(tracks["best"])


def _images(x: Tensor) -> Tensor:
    """Points (B, ...) as images (B, C, H, W): a vector as a row of pixels, a signal (C, L) as a row of C channels."""
    if x.dim() == 4:
        return x
    channels = 1 if x.dim() == 2 else x.shape[1]
    return x.reshape(len(x), channels, 1, -1)
