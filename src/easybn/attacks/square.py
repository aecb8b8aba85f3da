"""Square attack: random search with square windows, by the logits alone (Andriushchenko et al., ECCV 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..keyed_random import Noise
from ..perturb.ball import L2, Ball, Linf, per_sample
from .attack import Attack, Try
from .objective import margin
from .prepare import Prepared
from .square_ahead import MEMORY, look_on
from .square_l2 import displaced, tiles
from .square_linf import flipped, stripes
from .square_windows import sides, stages
from .tracks import Tracks


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
            (:mod:`~easybn.attacks.square_ahead`); 0 for one query a pass, always.

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
