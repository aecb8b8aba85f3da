"""One attack on many points: tries that end make room for others, until every point has fallen or none is left."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..keyed_random import Noise
from .attack import Attack
from .attempts import Attempts
from .judge import judge, settle
from .prepare import Prepared
from .queue import Pending
from .tracks import Tracks, stacked

Tick = Callable[[int, int, int], None]
"""``tick(done, total, left)``: looks accounted for and in all, points that still stand."""
State = dict[str, Any]
RESULT = (
    "row", "number", "age", "reach", "margin", "forwards", "backwards", "finished",
    "non_finite", "zero_gradients",
)  # fmt: skip


def no_tick(done: int, total: int, left: int) -> None:
    """The tick of those who gave none."""


@dataclass
class Drive:
    """A run of an attack; :meth:`run` it once.

    Which rows share a batch follows from the points, the sizes and what has fallen, and from nothing else: the
    same call gives the same bits, also when it goes on from a saved state.

    Args:
        model: from ``prepared``.
        attack: what to run.
        x: images in [0, 1], (n, ...), on any device.
        y: true classes, int64 (n,).
        ids: int64 (n,), the names of the points in the key of their random numbers.
        ranking: int64 (n, K - 1), the other classes, the one of largest clean logit first; -1 in the place of those
            that are masked by -inf and no target.
        seed: of all that is random.
        batch_size: rows at a time, at most.
        beside: where fewer rows than that are busy, further tries of the same points run at their side.
        save: called with a state about every ``save_seconds``. The state is written, or copied, before it returns:
            the run goes on in the same memory.
        due: asked after every move whether to save, in the place of ``save_seconds``.
    """

    model: Prepared
    attack: Attack
    x: Tensor
    y: Tensor
    ids: Tensor
    ranking: Tensor
    seed: int = 0
    batch_size: int = 256
    beside: int = 32
    tick: Tick = no_tick
    save: Callable[[State], None] | None = None
    save_seconds: float = 60.0
    due: Callable[[], bool] | None = None
    live: Tracks = field(default_factory=Tracks, init=False)
    ended: list[dict[str, Tensor]] = field(default_factory=list, init=False)

    def run(self, resume: State | None = None) -> Attempts:
        """Every try that was begun, in the order of (point, try), and the adversarial images.

        Args:
            resume: a state that ``save`` was given by a run with the same arguments.
        """
        n, tries = len(self.ids), self.attack.tries(self.ranking.shape[1] + 1)
        self.pending = Pending(n, len(tries))
        self.fallen = torch.zeros(n, dtype=torch.bool)
        self.images = torch.zeros(n, *self.x.shape[1:], dtype=self.model.image_dtype)
        self.nearest = torch.full((n,), torch.inf, dtype=torch.float64)
        if resume is not None:
            self._restore(resume)
        else:
            rank = torch.tensor([each.target for each in tries])
            targets = self.ranking.cpu()[:, (rank - 1).clamp(min=0)]  # (n, tries)
            self.pending.drop((rank > 0) & (targets < 0))
        saved = time.monotonic()
        while self._refill() or self.live.count:
            logits = self.attack.look(self.model, self.live)
            with torch.no_grad():
                down, best = judge(self.model, self.attack, self.live, logits)
                self._keep(best, self.live["point"], down)
                self._leave(down)
                if self.live.count:
                    self.attack.move(self.model, self.live)
                    self.live["age"] = self.live["age"] + 1
            self._report(len(tries))
            over = time.monotonic() - saved > self.save_seconds if self.due is None else self.due()
            if self.save is not None and over:
                self.save(self._state())
                saved = time.monotonic()
        return Attempts.of(stacked(self.ended), tries, self.nearest, self.images)

    def _refill(self) -> bool:
        """Fill the batch up again once a quarter of it is free; whether anything was added."""
        busy = self.live.count
        if not len(self.pending) or busy > self.batch_size * 3 // 4:
            return False
        rows, numbers = self.pending.take(
            self.live["row"].cpu() if busy else torch.empty(0, dtype=torch.int64),
            self.fallen, self.batch_size, self.beside,
        )  # fmt: skip
        if len(rows):
            self.live = self.live.joined_by(self._tracks(rows, numbers))
        return bool(len(rows))

    def _tracks(self, rows: Tensor, numbers: Tensor) -> Tracks:
        tries = self.attack.tries(self.ranking.shape[1] + 1)
        centre = self.model.load(self.x[rows.to(self.x.device)])
        rank = torch.tensor([each.target for each in tries])[numbers]
        target = self.ranking.cpu()[rows, (rank - 1).clamp(min=0)].where(rank > 0, torch.tensor(-1))
        noise = Noise.of(self.seed, f"attacks/{self.attack.name}", self.ids.cpu()[rows]).numbered(numbers)
        tracks = Tracks.begun(rows, self.y.cpu()[rows], target, numbers, noise.keys, centre)
        self.attack.begin(tracks)
        return tracks

    def _keep(self, best: Tensor, images: Tensor, sure: Tensor) -> None:
        """Keep the images of the rows ``best`` where they are surer or nearer than what their point has."""
        if not best.any():
            return
        reach, index = self.live["reach"].cpu(), self.live["row"].cpu()
        # two tries may succeed at a point in one step: the sure one goes last, and stays
        for i in torch.cat([rows.nonzero()[:, 0] for rows in (best & ~sure, best & sure)]).tolist():
            row = int(index[i])
            if reach[i] < self.nearest[row] or (self.attack.bounded and sure[i]):
                self.nearest[row], self.images[row] = reach[i], images[i].to(self.images)

    def _leave(self, down: Tensor) -> None:
        """Drop the rows that fell or are at their end, and the other tries of points that fell."""
        over = down | (self.live["age"] >= self.attack.moves)
        if not over.any():
            return
        if not self.attack.bounded:
            self._keep(settle(self.model, self.live, over), self.live["far_point"], down)
        felled = over & (self.live["reach"] <= float(self.attack.ball.eps))
        self.fallen[self.live["row"][felled].cpu()] = True
        gone = over | self.fallen.to(over.device)[self.live["row"]]
        left = self.live.those(gone)
        left["finished"] = over[gone]
        self.ended.append({name: left[name].cpu() for name in RESULT})
        self.live = self.live.those(~gone)

    def _report(self, tries: int) -> None:
        looks = self.attack.moves + 1
        open_rows = int((~self.fallen[self.pending.rows]).sum())
        ahead = open_rows * looks + int((looks - self.live["age"]).sum())
        total = len(self.fallen) * tries * looks
        self.tick(total - ahead, total, int((~self.fallen).sum()))

    def _state(self) -> State:
        return {
            "live": dict(self.live),
            "rows": self.pending.rows,
            "numbers": self.pending.numbers,
            "fallen": self.fallen,
            "images": self.images,
            "nearest": self.nearest,
            "ended": stacked(self.ended),
        }

    def _restore(self, state: State) -> None:
        device = self.model.device or self.x.device  # a state from a file is on the CPU
        self.live = Tracks({name: column.to(device) for name, column in state["live"].items()})
        self.fallen, self.images = state["fallen"], state["images"]
        self.nearest, self.ended = state["nearest"], [state["ended"]] if state["ended"] else []
        self.pending.rows, self.pending.numbers = state["rows"], state["numbers"]
