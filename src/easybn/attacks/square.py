"""Square attack: random search with square windows, by the logits alone (Andriushchenko et al., ECCV 2020).

An attempt starts from a random pattern. A query changes the best image so far in one window (l-infinity) or two (l2);
the result replaces it if its margin loss is larger. Windows shrink on a fixed schedule. Random numbers are those of
(point, attempt, query), so that a query can also be drawn ahead of its turn.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import L2, Ball, Linf, per_sample
from .attack import Attack, AttackState, Attempt, Variants, invalid_logits
from .attack_mode import TargetModel
from .losses import margin

RATE_WEIGHT = 0.02  # of a query in ``improvement_rate``, the running share of queries that improved
MAX_WASTE = 0.15  # share of all passes that may be spent on queries that must be drawn again


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
        restarts: attempts from other patterns.
        min_active: where fewer than half as many rows are active, a pass evaluates several queries of each; 0 for
            always one query per pass.

    Raises:
        ValueError: an argument out of its range.
    """

    ball: Ball
    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    min_active: int = 32
    uses_gradient = False
    variants: ClassVar[Variants] = {"square": {}}
    order = 30

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
    def steps(self) -> int:
        return self.queries

    def attempts(self, classes: int) -> list[Attempt]:
        return [Attempt(restart=restart) for restart in range(self.restarts)]

    def init(self, state: AttackState) -> None:
        # windows run along the rows of an image: with the channels between its pixels all of this takes 7 times as long
        original = state["original"].contiguous()
        start = stripes if isinstance(self.ball, Linf) else tiles
        image = start(as_images(original), float(self.ball.eps), Noise(state["key"]).child("start"))
        image = image.view_as(original)
        worst = torch.full((state.count,), -torch.inf, dtype=torch.float64, device=original.device)
        state.update(
            original=original, image=image, best=image, loss=worst, best_loss=worst,
            improvement_rate=torch.ones_like(worst),
        )  # fmt: skip

    def evaluate(self, model: TargetModel, state: AttackState) -> Tensor:
        if self.min_active >= 2 * state.count:
            return self._evaluate_ahead(model, state, self.min_active // state.count)
        with torch.no_grad():
            logits = model(state["image"])
        state.count_passes(forwards=1)
        state["loss"] = margin(logits, state["label"])
        return logits

    def step(self, model: TargetModel, state: AttackState) -> None:
        # a first success improves on every image before it; one within rounding may be improved upon in turn
        better = state["loss"] > state["best_loss"]  # never where the loss is NaN
        state["best"] = torch.where(per_sample(better, state["image"]), state["image"], state["best"])
        state["best_loss"] = torch.where(better, state["loss"], state["best_loss"])
        rate = state["improvement_rate"]
        state["improvement_rate"] = rate + RATE_WEIGHT * (better.double() - rate)
        state["image"] = self._proposal(state, state["iteration"])

    def _proposal(self, state: AttackState, query: Tensor) -> Tensor:
        """(B, ...) the image of a query (int64, (B,)), given the best one so far."""
        best, original, linf = as_images(state["best"]), as_images(state["original"]), isinstance(self.ball, Linf)
        noise, stage = Noise(state["key"]).numbered(query), stages(query)
        sizes = sides(self.p_init, *best.shape[2:], linf)
        propose = flip_window if linf else move_mass
        return propose(best, original, float(self.ball.eps), sizes, stage, noise).view_as(state["best"])

    def _evaluate_ahead(self, model: TargetModel, state: AttackState, most: int) -> Tensor:
        """(B, K) logits of one image per row, after up to ``most`` queries per row in one pass.

        A query is compared with the best image so far, and most queries do not improve on it. So the next ones are
        drawn as if the present one failed, and evaluated together with it: a pass over a few images takes hardly less
        time than one over some more. The first that improves is taken (``image``, ``loss``, ``iteration`` and
        ``improvement_rate`` become its own), those behind it will be drawn again. The sequence of images is exactly
        that of one query at a time.
        """
        rows, iteration = torch.arange(state.count, device=state["row"].device), state["iteration"]
        depth = lookahead_depth(state["improvement_rate"], most).minimum(self.queries + 1 - iteration)
        parent = rows.repeat_interleave(depth)
        first = depth.cumsum(0) - depth
        offset = torch.arange(len(parent), device=parent.device) - first[parent]
        image, later = state["image"][parent], offset > 0
        if later.any():
            parents = {name: state[name][parent[later]] for name in ("key", "best", "original")}
            # the image of iteration i is that of query i - 1: the pattern of the start is no query
            image[later] = self._proposal(AttackState(parents), iteration[parent[later]] + offset[later] - 1)
        with torch.no_grad():
            logits = model(image)
        loss = margin(logits, state["label"][parent])
        # where the logits name no class the loss is NaN and the image adversarial
        improves = (loss > state["best_loss"][parent]) | invalid_logits(logits)
        # the first that improves, or else the last of the row
        rank = torch.where(improves | (offset == depth[parent] - 1), offset, len(parent))
        taken = torch.full_like(iteration, len(parent)).scatter_reduce(0, parent, rank, "amin")
        chosen = first + taken
        state["forwards"] = state["forwards"] + depth
        state.update(image=image[chosen], loss=loss[chosen], iteration=iteration + taken)
        # those before it did not improve
        state["improvement_rate"] = state["improvement_rate"] * (1 - RATE_WEIGHT) ** taken.double()
        return logits[chosen]


def lookahead_depth(improvement_rate: Tensor, most: int) -> Tensor:
    """int64 (B,) queries in a pass, 1 .. most: after an improvement half of those behind it are wasted on average."""
    return (1 + 2 * MAX_WASTE / improvement_rate.clamp(min=1e-9)).clamp(max=most).long()


def as_images(x: Tensor) -> Tensor:
    """Points (B, ...) as images (B, C, H, W): a vector as a row of pixels, a signal (C, L) as a row of C channels."""
    if x.dim() == 4:
        return x
    channels = 1 if x.dim() == 2 else x.shape[1]
    return x.reshape(len(x), channels, 1, -1)


# Windows: how large they are at a query, and where they lie in each row of a batch.

Sides = tuple[int, ...]  # of the window in each stage of the schedule, in pixels
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def share(query: int, p_init: float) -> float:
    """The share p of the image that the window of a query covers; ``query`` counts from 0 (section 3.2)."""
    return p_init / 2 ** sum(query > last for last in HALVED_AFTER)


@cache
def sides(p_init: float, height: int, width: int, linf: bool) -> tuple[int, ...]:
    """Side of the square window in pixels in each of the 10 stages of the schedule.

    In l2, whose kernel has a middle, sides are odd and at least 3, except for images smaller than that.
    """
    out = []
    for first in (0, *(last + 1 for last in HALVED_AFTER)):
        side = round(math.sqrt(share(first, p_init) * height * width))
        side = max(side, 1) if linf else max(side, 3) | 1
        out.append(min(side, height, width))
    return tuple(out)


def stages(query: Tensor) -> Tensor:
    """(B,) int64, 0 .. 9: the stage of the schedule for numbers of queries (int64, (B,))."""
    return torch.bucketize(query, _on_device(HALVED_AFTER, query.device))


@cache
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """The numbers as a tensor, made once for each device."""
    return torch.tensor(numbers, device=device)


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """-1 or 1 for each of the random ``bits`` (int64), in the type of ``like``."""
    return (bits < 0).to(like.dtype).mul_(-2).add_(1)


def corners(bits: Tensor, side: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """First rows and first columns of n windows per image, two int64 tensors (B, n).

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


# l-infinity: stripes, then squares of one sign each (section 3.3).


def stripes(original: Tensor, eps: float, noise: Noise) -> Tensor:
    """(B, C, H, W) the first image: vertical stripes one pixel wide of -eps or eps, for each channel its own."""
    rows, channels, _, width = original.shape
    sign = signs(noise.bits(channels * width), original).view(rows, channels, 1, width)
    return (original + eps * sign).clamp_(0, 1)


def flip_window(best: Tensor, original: Tensor, eps: float, sides: Sides, stage: Tensor, noise: Noise) -> Tensor:
    """(B, C, H, W) ``best`` with one sign of the perturbation in a window, for each channel its own (algorithm 2).

    Args:
        best: (B, C, H, W) the best image so far.
        original: (B, C, H, W).
        eps: of the ball.
        sides: of the window in each stage of the schedule, in pixels.
        stage: int64 (B,), which stage.
        noise: of this query.
    """
    side = _on_device(sides, best.device)[stage]
    bits = noise.bits(2 + best.shape[1])
    window = windows(*corners(bits[:, :2], side, best), side, best)
    # twice eps crosses the ball from wherever the pixel is
    image = torch.addcmul(best, signs(bits[:, 2:], best)[:, :, None, None] * (2 * eps), window)
    bound = original - eps
    torch.maximum(image, bound, out=image)
    torch.minimum(image, torch.add(original, eps, out=bound), out=image)
    return image.clamp_(0, 1)


# l2: a tiling, then mass moved between two windows (section 3.4).

TINY = 1e-12
TILES = 5  # per side


def tiles(original: Tensor, eps: float, noise: Noise) -> Tensor:
    """(B, C, H, W) the first image: 5 x 5 kernels side by side, each turned and, for each channel, signed at random.

    Placed as in the reference implementation wherever that works: what it would put beyond the edge is cut off, and
    sides of less than 5 pixels have tiles of a pixel each.
    """
    rows, channels, height, width = original.shape
    short = min(height, width)
    side = max(short // TILES, 1)
    first = max(short - side * TILES, 0) // 2
    down, across = height // side, width // side
    bits = noise.bits(down * across * (1 + channels)).view(rows, 1 + channels, down, across)
    # each pixel's tile, and where in the tile it is; pixels before the first and after the last tile are in none
    y, x = (torch.arange(size, device=original.device) - first for size in (height, width))
    i, j = (y // side).clamp(0, down - 1)[:, None], (x // side).clamp(0, across - 1)
    flat, turned = kernel(side, original.dtype, original.device)[:, y[:, None] % side, x % side]
    covered = ((y >= 0) & (y < down * side))[:, None] & (x >= 0) & (x < across * side)
    pattern = torch.where((bits[:, :1] < 0)[:, :, i, j], turned, flat) * signs(bits[:, 1:], original)[:, :, i, j]
    return _scaled(pattern * covered, original, eps)


def move_mass(best: Tensor, original: Tensor, eps: float, sides: Sides, stage: Tensor, noise: Noise) -> Tensor:
    """(B, C, H, W) ``best`` with the perturbation of one window spent in another one (algorithm 3).

    There a kernel is added to what the window has, and the sum is scaled to what was in the two windows and what the
    image had not used of ``eps``. Arguments as of :func:`flip_window`.
    """
    channels = best.shape[1]
    side = _on_device(sides, best.device)[stage]
    bits = noise.bits(5 + channels)
    top, left = corners(bits[:, :4], side, best)
    both = windows(top, left, side, best)
    gaining, losing = both[:, :1], both[:, 1:]
    added = kernel_planes(sides, stage, bits[:, 4] < 0, top[:, 0], left[:, 0], best)

    rest = best - original
    unused = (eps**2 - _norm(rest, (1, 2, 3)) ** 2).clamp_(min=0)
    new = rest * torch.maximum(gaining, losing)
    rest -= new
    budget = (unused / channels + _norm(new, (2, 3)) ** 2).sqrt_()
    new *= gaining
    new /= _norm(new, (2, 3)) + TINY
    new.addcmul_(added, signs(bits[:, 5:], best)[:, :, None, None])
    return _scaled(rest.addcmul_(new, budget / (_norm(new, (2, 3)) + TINY)), original, eps)


def _scaled(delta: Tensor, original: Tensor, eps: float) -> Tensor:
    """The image at distance ``eps`` in the direction of ``delta`` (overwritten), but for pixels that leave [0, 1]."""
    return delta.mul_(eps / (_norm(delta, (1, 2, 3)) + TINY)).add_(original).clamp_(0, 1)


def _norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x * x).sum(dims, keepdim=True).sqrt_()  # more accurate than torch's norm, see perturb.ball.l2_norm


def kernel(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2, side, side) of l2 norm 1: a positive hill above a negative one; and the same turned (equation 2)."""
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


def kernel_planes(sides: Sides, stage: Tensor, turned: Tensor, top: Tensor, left: Tensor, like: Tensor) -> Tensor:
    """(B, 1, H, W) in the type of ``like`` (B, C, H, W): each row's kernel where its window is, 0 elsewhere.

    Args:
        sides: of the window in each stage.
        stage: int64 (B,).
        turned: bool (B,), which of the two kernels.
        top: int64 (B,), first row of the window.
        left: int64 (B,), its first column.
    """
    height, width = like.shape[2:]
    table, rows = _kernel_table(sides, width, like.dtype, like.device)
    y = (torch.arange(1, height + 1, device=top.device) - top[:, None]).clamp_(0, rows - 1)
    y += (2 * stage + turned)[:, None] * rows
    # whole rows of an image are copied: that is much faster than a gather of pixels
    return table[y, (width - left)[:, None]][:, None]


@cache
def _kernel_table(sides: tuple[int, ...], width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
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
