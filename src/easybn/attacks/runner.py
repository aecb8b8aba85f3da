"""One attack on many points: tries that end make room for others, until every point has fallen or none is left."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..keyed_random import Noise
from .attack import Attack, Tracks, Try, check_within, fooled, stacked
from .losses import margin
from .prepare import Prepared

# What a run of an attack leaves: a row a try that was begun.

COLUMNS = {
    "row": torch.int64,
    "target": torch.int64,
    "restart": torch.int64,
    "finished": torch.bool,
    "iteration": torch.int64,
    "distance": torch.float64,
    "margin": torch.float64,
    "forwards": torch.int64,
    "backwards": torch.int64,
    "non_finite": torch.int64,
    "zero_gradients": torch.int64,
}


@dataclass(frozen=True)
class Attempts:
    """Tries at n points, in the order of (point, try), all on the CPU.

    Args:
        columns: of R rows each: ``row`` the point, ``target`` the rank of the target class (0 for none),
            ``restart``, ``finished`` (False: given up because another try at the point had succeeded),
            ``iteration`` at which it fell or ended, ``distance`` of its nearest adversarial image (infinite if
            there is none), ``margin`` of the original model there, ``forwards`` and ``backwards`` spent on it,
            gradients that were ``non_finite``, and ``zero_gradients`` throughout.
        nearest: float64 (n,), distance of each point's kept adversarial image, infinite if there is none.
        images: (n, ...), the adversarial images; undefined where ``nearest`` is infinite.
    """

    columns: dict[str, Tensor]
    nearest: Tensor
    images: Tensor

    def fell(self, eps: float) -> Tensor:
        """bool (n,): an adversarial image was found within ``eps``."""
        return self.nearest <= eps

    @classmethod
    def of(cls, ended: dict[str, Tensor], tries: Sequence[Try], nearest: Tensor, images: Tensor) -> "Attempts":
        """From the ended tracks (columns ``row``, ``number``, ``age``, ``reach`` and those of the same name)."""
        if not ended:
            return cls({name: torch.empty(0, dtype=dtype) for name, dtype in COLUMNS.items()}, nearest, images)
        order = torch.argsort(ended["row"] * len(tries) + ended["number"])
        ended = {name: column[order] for name, column in ended.items()}
        number = ended.pop("number")
        found = {
            **ended,
            "target": torch.tensor([each.target for each in tries])[number],
            "restart": torch.tensor([each.restart for each in tries])[number],
            "iteration": ended["age"],
            "distance": ended["reach"],
        }
        return cls({name: found[name].to(dtype) for name, dtype in COLUMNS.items()}, nearest, images)


# The tries not yet begun, and which of them come next.


class Pending:
    """Tries of n points in the order (number of the try, point).

    Args:
        n: number of points.
        tries: number of tries a point.
    """

    def __init__(self, n: int, tries: int) -> None:
        self.n = n
        self.rows = torch.arange(n).repeat(tries)
        self.numbers = torch.arange(tries).repeat_interleave(n)

    def __len__(self) -> int:
        return len(self.rows)

    def drop(self, which: Tensor) -> None:
        """Remove attempts; ``which`` is bool (n, number of attempts at a point)."""
        kept = ~which[self.rows, self.numbers]
        self.rows, self.numbers = self.rows[kept], self.numbers[kept]

    def take(self, busy: Tensor, fallen: Tensor, most: int, beside: int) -> tuple[Tensor, Tensor]:
        """Remove and return the next tries: points and numbers, two int64 tensors of the same length.

        A point has one try at a time, for its next ones may be spared; only where fewer than ``beside`` rows
        are busy do further tries join, because a pass over a few rows takes no less time than over some more.

        Args:
            busy: int64, the points of the rows under way.
            fallen: bool (n,), points whose tries are dropped.
            most: rows at a time, those under way included.
            beside: see above.
        """
        standing = ~fallen[self.rows]
        self.rows, self.numbers = self.rows[standing], self.numbers[standing]
        place = torch.arange(len(self.rows))
        first = torch.full((self.n,), len(self.rows)).scatter_reduce(0, self.rows, place, "amin")
        occupied = torch.zeros(self.n, dtype=torch.bool)
        occupied[busy] = True
        alone = (first[self.rows] == place) & ~occupied[self.rows]
        taken = alone & (alone.cumsum(0) <= most - len(busy))
        room = min(beside, most) - len(busy) - int(taken.sum())
        if room > 0:
            taken |= ~taken & ((~taken).cumsum(0) <= room)
        out = self.rows[taken], self.numbers[taken]
        self.rows, self.numbers = self.rows[~taken], self.numbers[~taken]
        return out


# Which of the images just looked at are adversarial: only what the original model gets wrong counts.


def judge(model: Prepared, attack: Attack, tracks: Tracks, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Look for successes among ``tracks["point"]``; ``reach`` and ``margin`` are written.

    A suspect goes once more through the original model, alone with the other suspects. If it is wrong by more
    than rounding can explain the point is down; if by less the success is noted and the try goes on. What an
    unbounded attack finds outside its ball is only noted (``far``, ``far_point``): it is verified at the end.

    Args:
        logits: (B, K), what the prepared model said of the points.

    Returns:
        Two bool tensors (B,): down for good; the point is the try's best adversarial image so far.

    Raises:
        RuntimeError: a bounded attack's image outside the ball or outside [0, 1].
    """
    wrong, clearly = fooled(logits, tracks["label"])
    down, best = torch.zeros_like(wrong), torch.zeros_like(wrong)
    if not wrong.any():
        return down, best
    near = wrong
    if not attack.bounded:
        distance = attack.ball.distance(tracks["point"], tracks["centre"])
        near = wrong & (distance <= float(attack.ball.eps))
        far = clearly & ~near & (distance < tracks["far"])
        if far.any():
            tracks.put(far, far=distance[far], far_point=tracks["point"][far])
        if not near.any():
            return down, best
    point, label = tracks["point"][near], tracks["label"][near]
    verified, surely, by = _verify(model, tracks, near, point, label)
    if attack.bounded:
        reached = check_within(attack.ball, point, tracks["centre"][near]).clamp(max=float(attack.ball.eps))
    else:
        reached = distance[near]
    better = verified & (surely | (reached < tracks["reach"][near]))
    down[near], best[near] = surely, better
    tracks.put(best, reach=reached[better], margin=by[better])
    return down, best


def settle(model: Prepared, tracks: Tracks, over: Tensor) -> Tensor:
    """At the end of the tries ``over`` (bool (B,)) of an unbounded attack: verify what was noted outside the ball.

    Returns:
        bool (B,): ``far_point`` is adversarial, and ``reach`` its distance.
    """
    rows = over & (tracks["far"] < tracks["reach"])
    best = torch.zeros_like(rows)
    if rows.any():
        verified, _, by = _verify(model, tracks, rows, tracks["far_point"][rows], tracks["label"][rows])
        best[rows] = verified
        tracks.put(best, reach=tracks["far"][best], margin=by[verified])
    return best


def _verify(
    model: Prepared, tracks: Tracks, rows: Tensor, point: Tensor, label: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Wrong, wrong beyond rounding (bool), and the margin (float64), by the original model."""
    logits = model.original(point)
    tracks.spent(rows, forwards=1)
    return *fooled(logits, label), margin(logits, label)


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
